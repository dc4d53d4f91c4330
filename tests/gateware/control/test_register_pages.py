"""Register pages: random accesses with random stalls reach the page that their address names, each once, in order."""

import random

import pytest
from lepton_npu.bus.axi_lite import Response
from lepton_npu.control.register_pages import PAGE_ADDRESS_BITS, RegisterPages, register_address_bits
from lepton_npu.spec.config import NpuConfig

from tests.gateware.simulation import simulate


def test_needs_two_contexts():
    with pytest.raises(ValueError, match="contexts must be 2 or more, not 1"):
        RegisterPages(NpuConfig(contexts=1))


@pytest.mark.parametrize("contexts", [2, 4, 8])
def test_random(seed, contexts):
    rng = random.Random(seed << 4 ^ contexts)
    config = NpuConfig(contexts=contexts)
    dut = RegisterPages(config)
    bus = dut.s_axil
    writes = [
        (rng.getrandbits(register_address_bits(config)), rng.getrandbits(32), rng.getrandbits(4)) for _ in range(80)
    ]
    reads = [rng.getrandbits(register_address_bits(config)) for _ in range(80)]
    written, done = [], []

    def answer(address: int) -> tuple[int, int]:
        return address * 0x10001 & 0xFFFFFFFF, (Response.OKAY, Response.SLVERR)[address >> 3 & 1].value

    async def sender(ctx, channel: str, items, fields):
        """Offers items on a channel of the host, each until it is taken."""
        for item in items:
            while rng.random() < 0.4:
                await ctx.tick()
            for name, value in zip(fields, item):
                ctx.set(getattr(bus, name), value)
            ctx.set(getattr(bus, f"{channel}valid"), 1)
            await ctx.tick().until(getattr(bus, f"{channel}ready"))
            ctx.set(getattr(bus, f"{channel}valid"), 0)

    async def send_addresses(ctx):
        await sender(ctx, "aw", [(address,) for address, _, _ in writes], ["awaddr"])

    async def send_words(ctx):
        await sender(ctx, "w", [item[1:] for item in writes], ["wdata", "wstrb"])

    async def send_reads(ctx):
        await sender(ctx, "ar", [(address,) for address in reads], ["araddr"])

    async def take_writes(ctx):
        for address, _, _ in writes:
            ctx.set(bus.bready, 0)
            while rng.random() < 0.4:
                await ctx.tick()
            ctx.set(bus.bready, 1)
            (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
            assert response == answer(address)[1]
        ctx.set(bus.bready, 0)
        done.append("writes")

    async def take_reads(ctx):
        for address in reads:
            ctx.set(bus.rready, 0)
            while rng.random() < 0.4:
                await ctx.tick()
            ctx.set(bus.rready, 1)
            data, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
            assert (data, response) == answer(address)
        ctx.set(bus.rready, 0)
        done.append("reads")

    async def taken(ctx, handshake, value=0):
        """``value`` in the cycle in which ``handshake`` is high; `until` complains when a background bench is left."""
        while True:
            _, _, over, sampled = await ctx.tick().sample(handshake, value)
            if over:
                return sampled

    def page_of_writes(number: int):
        port = dut.pages[number]

        async def page(ctx):
            while True:
                item = {}
                while len(item) < 2:
                    ctx.set(port.awready, "address" not in item and rng.random() < 0.5)
                    ctx.set(port.wready, "word" not in item and rng.random() < 0.5)
                    _, _, address_taken, address, word_taken, word, strobes = await ctx.tick().sample(
                        port.awvalid & port.awready,
                        port.awaddr,
                        port.wvalid & port.wready,
                        port.wdata,
                        port.wstrb,
                    )
                    if address_taken:
                        item["address"] = address
                    if word_taken:
                        item["word"] = (word, strobes)
                ctx.set(port.awready, 0)
                ctx.set(port.wready, 0)
                address = number << PAGE_ADDRESS_BITS | item["address"]
                written.append((address, *item["word"]))
                ctx.set(port.bvalid, 1)
                ctx.set(port.bresp, answer(address)[1])
                await taken(ctx, port.bready)
                ctx.set(port.bvalid, 0)

        return page

    def page_of_reads(number: int):
        port = dut.pages[number]

        async def page(ctx):
            while True:
                ctx.set(port.arready, 1)
                address = await taken(ctx, port.arvalid, port.araddr)
                ctx.set(port.arready, 0)
                while rng.random() < 0.5:
                    await ctx.tick()
                data, response = answer(number << PAGE_ADDRESS_BITS | address)
                ctx.set(port.rvalid, 1)
                ctx.set(port.rdata, data)
                ctx.set(port.rresp, response)
                await taken(ctx, port.rready)
                ctx.set(port.rvalid, 0)

        return page

    async def end(ctx):
        """Within 20,000 cycles all is done; a write too many would come soon after."""
        for _ in range(20_000):
            if len(done) == 2:
                break
            await ctx.tick()
        assert sorted(done) == ["reads", "writes"]
        await ctx.tick().repeat(500)

    pages = [page(number) for number in range(contexts) for page in (page_of_writes, page_of_reads)]
    hosts = [send_addresses, send_words, send_reads, take_writes, take_reads]
    simulate(dut, end, background=hosts + pages)
    assert sorted(done) == ["reads", "writes"]
    assert written == writes

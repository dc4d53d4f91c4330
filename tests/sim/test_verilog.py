"""Verilog generation: names, reproducibility, and what must not be in it."""

import os
import re
import subprocess
import sys
import types

import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory, MemoryData
from amaranth.lib.wiring import In, Out
from lepton_npu import verilog
from lepton_npu.spec.config import PRESETS
from lepton_npu.verilog import VerilogError, generate, port_names, to_rtlil
from lepton_sim.cache import kept_text

from tests.sim.skid import SkidBuffer


class Chain(wiring.Component):
    """Two skid buffers and a memory, with an AMBA-like interface: everything that needs a name."""

    def __init__(self):
        axi = wiring.Signature({"awaddr": Out(32), "awready": In(1)})
        super().__init__({"m_axi": Out(axi), "i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = SkidBuffer(8)
        m.submodules.second = second = SkidBuffer(8)
        m.submodules.store = store = Memory(shape=unsigned(8), depth=64, init=[])
        write, read = store.write_port(), store.read_port()
        wiring.connect(m, wiring.flipped(self.i), first.i)
        wiring.connect(m, first.o, second.i)
        wiring.connect(m, second.o, wiring.flipped(self.o))
        count = Signal(6, name="count[0]")
        with m.If(self.m_axi.awready):
            m.d.sync += count.eq(count + 1)
        m.d.comb += [write.addr.eq(count), write.data.eq(first.o.payload), write.en.eq(1)]
        m.d.comb += [read.addr.eq(count), read.en.eq(1), self.m_axi.awaddr.eq(read.data)]
        return m


def _ports(text: str, module: str) -> set[str]:
    header = re.search(rf"^module {module}\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    assert header is not None
    return {name.strip() for name in header[1].split(",")}


def test_names():
    text, name_map = generate(Chain(), "chain")
    assert _ports(text, "chain") == {
        "clk", "rst", "m_axi_awaddr", "m_axi_awready",
        "i_payload", "i_valid", "i_ready", "o_payload", "o_valid", "o_ready",
    }  # fmt: skip
    assert re.findall(r"^module (\w+)", text, re.MULTILINE) == ["chain", "chain_first", "chain_second"]
    assert {"i_payload", "o_valid"} <= _ports(text, "chain_first")
    assert "\\" not in text, "a name that needs an escape"
    paths = {".".join(path) for path in name_map.values()}
    assert {"chain.first.fsm_state", "chain.count_0"} <= paths
    for path in paths:
        assert re.search(rf"\b{path.split('.')[-1]}\b", text), path


class Half(wiring.Component):
    """An input that its parent puts together from two cells: Amaranth numbers these ports by the cell."""

    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i[:4] + self.i[4:])
        return m


class Row(wiring.Component):
    """Two equal halves at different cells."""

    i: In(16)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        row = Signal(16)
        m.d.sync += row.eq(self.i)
        for number in range(2):
            half = m.submodules[f"half{number}"] = Half()
            masked = (row & 0x5A5A).word_select(number, 8)
            m.d.comb += [half.i.eq(Cat(masked[:7], row[number])), self.o.word_select(number, 8).eq(half.o)]
        return m


def test_numbered_ports_do_not_keep_equal_modules_apart():
    text, _ = generate(Row(), "row")
    assert re.findall(r"^module (\w+)", text, re.MULTILINE) == ["row", "row_half0"]
    assert {"port", "port_2"} <= _ports(text, "row_half0")


class Words(wiring.Component):
    """A memory of 8 words that begins with ``init``, and one of zeros beside it."""

    def __init__(self, init):
        self.data = [MemoryData(shape=unsigned(5), depth=8, init=words) for words in (init, [])]
        super().__init__({"addr": In(3), "a": Out(5), "b": Out(5)})

    def elaborate(self, platform):
        m = Module()
        for name, data, output in zip("ab", self.data, (self.a, self.b)):
            m.submodules[name] = memory = Memory(data)
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [write.addr.eq(self.addr), read.addr.eq(self.addr), read.en.eq(1), output.eq(read.data)]
        return m


@pytest.mark.parametrize("init", [[], [0, 0, 0, 0, 0, 0, 0, 1], [3], [31] * 8], ids=str)
def test_memories_begin_with_their_words(init):
    words = Words(init)
    text, _ = to_rtlil(words, "words")
    found = re.findall(
        r"connect \\DATA (\d+)'([01]+)\n", "".join(re.findall(r"cell \$meminit_v2.*?end", text, re.DOTALL))
    )
    expected = [*init, *[0] * (8 - len(init))]
    assert [width for width, _ in found] == ["40", "40"]
    assert [int(digits, 2) for _, digits in found] == [sum(word << 5 * i for i, word in enumerate(expected)), 0]
    assert [list(data.init) for data in words.data] == [expected, [0] * 8]
    verilog, _ = generate(words, "words")
    assert verilog.count("[i] = 5'h00;") == (2 if not init else 1)


def test_reproducible_and_free_of_the_machine():
    """The same bytes in another process with other hash seeds, and no path, date or user in them."""
    script = "from tests.sim.test_verilog import Chain, generate; print(generate(Chain(), 'chain')[0], end='')"
    texts = {generate(Chain(), "chain")[0]}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    (text,) = texts
    assert not re.search(r"/\w+/|src =|\.py|git sha1", text)


def test_header_timescale_and_style():
    text, _ = generate(Chain(), "chain", header="Two lines\nof comment")
    assert text.startswith("// Two lines\n// of comment\n")
    assert "`timescale 1ns/1ps" in text
    assert "always @*" not in text
    assert "always_comb" not in text
    assert len(text.splitlines()) < 400, "the memory's initial values are a loop"
    assert re.search(r"for \(int i = 0; i < 64; i = i \+ 1\)\n\s*\w+\[i\] = 8'h00;", text)


def test_port_names_that_collide():
    class Clash(wiring.Component):
        def __init__(self):
            super().__init__({"a_b": In(1), "a": In(wiring.Signature({"b": Out(1)}))})

        def elaborate(self, platform):
            return Module()

    with pytest.raises(VerilogError, match="two ports of Clash would both be called a_b"):
        port_names(Clash())


def test_needs_ports():
    class Plain(Elaboratable):
        def elaborate(self, platform):
            return Module()

    with pytest.raises(VerilogError, match="Plain has no signature: pass `ports`"):
        to_rtlil(Plain(), "top")


def test_ports_may_be_given():
    buffer = SkidBuffer(4)
    names = {name.replace("i_", "from_").replace("o_", "to_"): port for name, port in port_names(buffer).items()}
    text, _ = generate(buffer, "buffer", names)
    assert {"from_payload", "to_valid", "clk"} <= _ports(text, "buffer")


def test_command_writes_every_preset(tmp_path, monkeypatch):
    """`make rtl`: one file a preset, with its parameters in the head, and the names beside it."""
    core = types.ModuleType("lepton_npu.top")
    core.LeptonNpu = lambda config: SkidBuffer(config.side)
    monkeypatch.setitem(sys.modules, "lepton_npu.top", core)
    verilog.main(["--output", str(tmp_path)])
    for name, config in PRESETS.items():
        text = (tmp_path / f"lepton_npu_{name}.sv").read_text()
        assert f"preset {name}: {config}" in text
        assert f"module lepton_npu_{name}(" in text
        assert f"lepton_npu_{name}.fsm_state" in (tmp_path / f"lepton_npu_{name}.names.json").read_text()
    with pytest.raises(VerilogError, match=r"preset must be one of tiny, .*, not huge"):
        verilog.generate_preset("huge")


def test_kept_text_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path))
    made = []

    def make(text: str) -> str:
        made.append(text)
        return text

    assert kept_text("core", ("a",), lambda: make("one")) == "one"
    assert kept_text("core", ("a",), lambda: make("two")) == "one"
    assert kept_text("core", ("b",), lambda: make("three")) == "three"
    assert made == ["one", "three"]

"""`NpuConfig`: what is allowed, what the refusals say, and the sizes that follow from the parameters."""

from dataclasses import fields

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lepton_npu.spec.config import ACC_SPACE, PRESETS, NpuConfig

powers = [1 << n for n in range(17)]


def is_allowed(v: dict[str, int]) -> bool:
    """The docstring's limits, once more."""
    return (
        v["side"] in (4, 8, 16, 32)
        and v["lanes"] in powers
        and v["lanes"] <= v["side"]
        and v["vmem_banks"] in (2, 4, 8)
        and v["vmem_rows"] in powers
        and 4 * v["vmem_banks"] <= v["vmem_rows"] <= 32768
        and v["acc_rows"] in powers
        and 4 <= v["acc_rows"] <= 32768
        and v["tiles"] in powers
        and 4 <= v["tiles"] <= 32768
        and v["bus_width"] in (64, 128, 256)
        and v["bus_width"] <= 32 * v["side"]
        and 32 <= v["addr_width"] <= 64
        and v["max_burst"] in powers[:9]
        and v["max_burst"] * v["bus_width"] // 8 <= 4096
        and 1 <= v["outstanding"] <= 16
        and 1 <= v["queue_depth"] <= 16
        and v["tlb_entries"] in powers[1:7]
        and v["contexts"] in powers[:4]
        and v["vmem_rows"] >= 4 * v["vmem_banks"] * v["contexts"]
        and v["acc_rows"] >= 4 * v["contexts"]
        and v["tiles"] >= 4 * v["contexts"]
    )


near_power = st.builds(lambda n, d: (1 << n) + d, st.integers(0, 17), st.sampled_from([0, 0, 0, 0, 1, -1]))
SOME = {
    "side": st.sampled_from([4, 8, 16, 32, 4, 8, 16, 32, 2, 64, 12, 0]),
    "lanes": st.one_of(st.sampled_from([1, 2, 4]), near_power, st.integers(-2, 2)),
    "vmem_rows": st.one_of(near_power, st.just(0)),
    "vmem_banks": st.sampled_from([2, 4, 8, 2, 4, 8, 1, 16, 3]),
    "acc_rows": st.one_of(near_power, st.just(-4)),
    "tiles": near_power,
    "bus_width": st.sampled_from([64, 128, 256, 64, 128, 256, 32, 512, 96]),
    "addr_width": st.one_of(st.integers(32, 64), st.integers(30, 66)),
    "max_burst": st.one_of(st.sampled_from([1, 16, 64]), near_power),
    "outstanding": st.one_of(st.integers(1, 16), st.integers(-1, 18)),
    "queue_depth": st.one_of(st.integers(1, 16), st.integers(-1, 18)),
    "tlb_entries": near_power,
    "contexts": st.sampled_from([1, 2, 4, 8, 1, 2, 4, 8, 0, 3, 16]),
}


@st.composite
def allowed(draw) -> dict[str, int]:
    """Parameters within the limits."""

    def power(low: int, high: int) -> int:
        return draw(st.sampled_from([n for n in powers if low <= n <= high]))

    side, banks = draw(st.sampled_from([4, 8, 16, 32])), draw(st.sampled_from([2, 4, 8]))
    bus_width = power(64, min(256, 32 * side))
    contexts = power(1, 8)
    return {
        "side": side,
        "lanes": power(1, side),
        "vmem_rows": power(4 * banks * contexts, 32768),
        "vmem_banks": banks,
        "acc_rows": power(4 * contexts, 32768),
        "tiles": power(4 * contexts, 32768),
        "bus_width": bus_width,
        "addr_width": draw(st.integers(32, 64)),
        "max_burst": power(1, min(256, 32768 // bus_width)),
        "outstanding": draw(st.integers(1, 16)),
        "queue_depth": draw(st.integers(1, 16)),
        "tlb_entries": power(2, 64),
        "contexts": contexts,
    }


@st.composite
def almost_allowed(draw) -> dict[str, int]:
    """Parameters within the limits, but for perhaps one or two."""
    names = draw(st.lists(st.sampled_from(sorted(SOME)), max_size=2))
    return draw(allowed()) | {name: draw(SOME[name]) for name in names}


@given(almost_allowed())
def test_accepts_just_what_is_allowed(values):
    if is_allowed(values):
        assert NpuConfig(**values).as_dict() == values
    else:
        with pytest.raises(ValueError):
            NpuConfig(**values)


@given(st.data())
def test_message_names_parameter_value_and_what_is_allowed(data):
    """One parameter out of its own range, the others as they are by default."""
    name = data.draw(st.sampled_from(sorted(SOME)))
    value = data.draw(SOME[name])
    values = NpuConfig().as_dict() | {name: value}
    assume(not is_allowed(values))
    with pytest.raises(ValueError, match=r"^\w+ must .*, not -?\d+$") as error:
        NpuConfig(**values)
    # These three limit others, which are to blame then.
    if name not in ("side", "vmem_banks", "bus_width"):
        assert str(error.value).startswith(f"{name} must")
        assert str(error.value).endswith(f"not {value}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": 5}, "side must be one of 4, 8, 16, 32, not 5"),
        ({"lanes": 32}, r"lanes must be a power of two from 1 to side \(16\), not 32"),
        ({"lanes": 3}, r"lanes must be a power of two from 1 to side \(16\), not 3"),
        ({"vmem_banks": 16}, "vmem_banks must be one of 2, 4, 8, not 16"),
        ({"vmem_rows": 8}, "vmem_rows must be a power of two from 16 to 32768, not 8"),
        ({"acc_rows": 1000}, "acc_rows must be a power of two from 4 to 32768, not 1000"),
        ({"tiles": 65536}, "tiles must be a power of two from 4 to 32768, not 65536"),
        ({"bus_width": 32}, "bus_width must be one of 64, 128, 256, not 32"),
        ({"side": 4, "lanes": 4, "bus_width": 256}, r"bus_width must be at most .*side \* 32 \(128\), not 256"),
        ({"addr_width": 31}, "addr_width must be from 32 to 64, not 31"),
        ({"max_burst": 512}, "max_burst must be a power of two from 1 to 256, not 512"),
        ({"max_burst": 256, "bus_width": 256}, r"max_burst must .*4096 bytes \(128 beats at bus_width 256\), not 256"),
        ({"outstanding": 0}, "outstanding must be from 1 to 16, not 0"),
        ({"queue_depth": 17}, "queue_depth must be from 1 to 16, not 17"),
        ({"tlb_entries": 1}, "tlb_entries must be a power of two from 2 to 64, not 1"),
        ({"contexts": 3}, "contexts must be one of 1, 2, 4, 8, not 3"),
        ({"vmem_rows": 32}, r"vmem_rows must be at least 64 \(16 for each of 4 contexts\), not 32"),
        ({"acc_rows": 8, "contexts": 8}, r"acc_rows must be at least 32 \(4 for each of 8 contexts\), not 8"),
        ({"tiles": 4, "contexts": 2}, r"tiles must be at least 8 \(4 for each of 2 contexts\), not 4"),
        ({"tlb_entries": 24}, "tlb_entries must be a power of two from 2 to 64, not 24"),
    ],
)
def test_messages(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        NpuConfig(**values)


SIZES = {"vmem_rows": 1024, "acc_rows": 512, "tiles": 64}


@given(st.data())
def test_partition_is_a_core_with_less_memory(data):
    """Every size that a core may have and that this one has gives a config that is the same in all else."""
    config = NpuConfig(**data.draw(allowed()))
    least = {"vmem_rows": 4 * config.vmem_banks, "acc_rows": 4, "tiles": 4}
    sizes = {
        name: data.draw(st.sampled_from([n for n in powers if low <= n <= getattr(config, name)]))
        for name, low in least.items()
    }
    assert config.partition(**sizes).as_dict() == config.as_dict() | sizes | {"contexts": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vmem_rows": 16384}, "vmem_rows of a partition must be a power of two from 16 to 8192, not 16384"),
        ({"vmem_rows": 8}, "vmem_rows of a partition must be a power of two from 16 to 8192, not 8"),
        ({"acc_rows": 96}, "acc_rows of a partition must be a power of two from 4 to 4096, not 96"),
        ({"tiles": 0}, "tiles of a partition must be a power of two from 4 to 512, not 0"),
    ],
)
def test_partition_messages(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        NpuConfig().partition(**SIZES | values)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [16.0, None, True])
def test_partition_takes_only_integers(name, value):
    with pytest.raises(TypeError, match=f"^{name} of a partition must be an integer, not "):
        NpuConfig().partition(**SIZES | {name: value})


@pytest.mark.parametrize("name", [field.name for field in fields(NpuConfig)])
@pytest.mark.parametrize("value", [16.0, "16", None, True])
def test_only_integers(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be an integer, not "):
        NpuConfig(**{name: value})


@given(allowed())
def test_sizes(values):
    config = NpuConfig(**values)
    side = config.side
    assert 1 << config.side_bits == side
    assert config.row_bits == 8 * config.row_bytes == 32 * side
    assert config.bus_bytes * 8 == config.bus_width
    assert config.beats_per_row >= 1
    assert config.beats_per_row * config.bus_width == config.row_bits
    assert 1 << config.vmem_addr_bits == config.vmem_rows <= ACC_SPACE
    assert 1 << config.acc_addr_bits == config.acc_rows
    assert ACC_SPACE + config.acc_rows <= 1 << 16
    assert 1 << config.tile_bits == config.tiles
    assert 1 << config.tile_row_bits == config.tiles * side
    # Column sums: T products of two bytes, the extremes among them.
    assert side * 128 * 128 < 1 << (config.sum_bits - 1)
    assert hash(config) == hash(NpuConfig(**config.as_dict()))


def test_presets():
    assert PRESETS["default"] == NpuConfig()
    assert {name: config.contexts for name, config in PRESETS.items()} == {
        "tiny": 1,
        "ecp5": 1,
        "default": 4,
        "train": 1,
        "large": 4,
    }
    for config in PRESETS.values():
        assert NpuConfig(**config.as_dict()) == config

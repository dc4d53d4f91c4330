"""Partitions of the memories on the chip: where they are, and what is refused."""

import dataclasses

import pytest
from lepton_npu.spec.config import PRESETS
from leptonaicsdk import InputError
from leptonaicsdk.partition import Partition, choose_partition

CORE = dataclasses.replace(PRESETS["tiny"], contexts=4)  # 1024 rows, 256 accumulator rows, 512 tiles


def choose(number, taken=None, **wanted):
    return choose_partition(CORE, number, wanted, taken or {})


def test_equal_shares_by_default():
    taken: dict[int, Partition] = {}
    for number in (2, 0, 3, 1):
        taken[number] = choose(number, taken)
    assert taken[2] == Partition(range(256), range(64), range(128))
    assert taken[1] == Partition(range(768, 1024), range(192, 256), range(384, 512))
    config = taken[1].config(CORE)
    assert (config.vmem_rows, config.acc_rows, config.tiles, config.contexts) == (256, 64, 128, 1)


def test_the_first_place_that_is_free_and_a_multiple_of_the_size():
    small = Partition(range(64), range(64, 128), range(512 - 4, 512))
    taken = {0: small}
    found = choose(1, taken, vmem_rows=512, acc_rows=128, tiles=range(256, 260))
    assert found == Partition(range(512, 1024), range(128, 256), range(256, 260))
    assert choose(2, taken | {1: found}, vmem_rows=64, acc_rows=64).vmem_rows == range(64, 128)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"vmem_rows": range(512, 1024)}, r"vmem_rows 512 to 1023 of context 1 overlap .* 0 to 1023 of context 0"),
        ({"tiles": 512}, "tiles of context 1 must be 512 in one piece, and context 0 has tiles 0 to 127"),
        ({"acc_rows": 0}, r"acc_rows must be from 1 to 256, or a range, not 0 \(context 1\)"),
        ({"acc_rows": 512}, r"acc_rows must be from 1 to 256, or a range, not 512 \(context 1\)"),
        ({"acc_rows": True}, r"acc_rows must be from 1 to 256, or a range, not True \(context 1\)"),
        ({"tiles": range(130, 134)}, r"tiles must begin at a multiple of their number and end below 512, not be range"),
        ({"tiles": range(512, 516)}, r"tiles must begin at a multiple of their number and end below 512, not be range"),
        ({"acc_rows": 48}, r"acc_rows of a partition must be a power of two .* not 48 \(context 1\)"),
    ],
)  # fmt: skip
def test_messages(wanted, message):
    taken = {0: Partition(range(1024), range(64), range(128))}
    if "vmem_rows" not in wanted:
        taken = {0: dataclasses.replace(taken[0], vmem_rows=range(512))}
    with pytest.raises(InputError, match=message):
        choose(1, taken, **wanted)


def test_one_context_has_everything():
    core = dataclasses.replace(CORE, contexts=1)
    assert choose_partition(core, 0, {}, {}).config(core) == core
    with pytest.raises(InputError, match="a core with one context has no partitions"):
        choose_partition(core, 0, {"tiles": 256}, {})

"""Training with stochastic rounding of the deltas' tiles: reproducible, without races, unbiased; and without it."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Opcode, Rounding
from lepton_npu.spec.config import NpuConfig
from lepton_verif.model.arith.quantise import quantise
from leptonaicsdk import Dense, Device, InputError, InputTypeError, Network, Sgd
from leptonaicsdk.backend import ModelBackend
from leptonaicsdk.network import Adam, Loss
from leptonaicsdk.program import Program
from leptonaicsdk.session import Session
from leptonaicsdk.training.layout import Home

SMALL = NpuConfig(side=8, lanes=8, vmem_rows=2048, acc_rows=1024, tiles=512, queue_depth=8, contexts=1)
NETWORK = Network(21, (Dense(17, "relu"), Dense(11, "softmax")))


def parameters(network: Network, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (rng.normal(0, i**-0.5, (i, o)).astype(np.float32), rng.normal(0, 0.1, o).astype(np.float32))
        for i, o in zip(network.sizes, network.sizes[1:])
    ]


def session(network=NETWORK, *, schedule=None, optimizer=None, **options) -> Session:
    return Session(
        ModelBackend(SMALL, 1 << 22, schedule_seed=schedule), network, loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
        optimizer=optimizer or Adam(0.01), batch=20, input_scale=1 / 255, **options,
    )  # fmt: skip


def trained(seed: int, **options) -> np.ndarray:
    """The words on the chip after four steps, the last of half a batch."""
    rng = np.random.default_rng(seed)
    found = session(**options)
    found.parameters = parameters(NETWORK, rng)
    found.train(rng.integers(0, 256, (70, 21)).astype(np.uint8), rng.integers(0, 11, 70))
    return found.raw_state()


@pytest.mark.parametrize("precision", [8, 16, 32])
def test_numbers_follow_from_the_seed(precision, seed):
    """Not from the order of the engines, nor from where the weights live."""
    first = trained(seed, precision=precision, stochastic_rounding=5)
    for schedule, home in ((1, Home.CHIP), (2, Home.TILES), (3, Home.MEMORY)):
        again = trained(seed, precision=precision, stochastic_rounding=5, schedule=schedule, home=home)
        np.testing.assert_array_equal(first, again)
    for other in (None, 6):
        assert (trained(seed, precision=precision, stochastic_rounding=other) != first).any()


def test_bias_gradient_is_unbiased(seed):
    """The mean over N launches is the sum of the deltas: what is left is chance, and what saturates.

    A rounding has a variance of at most a quarter of a step squared, and is 2^-16 step too small on average; binary32
    takes less than 1e-6. 5 standard deviations for 10 numbers: one run in 100,000 exceeds them.
    """
    rng, network, count, launches = np.random.default_rng(seed), Network(21, (Dense(10, "softmax"),)), 20, 150
    start = parameters(network, rng)
    x, y = rng.integers(0, 256, (count, 21)).astype(np.uint8), rng.integers(0, 10, count)
    s = session(network, optimizer=Sgd(1.0), stochastic_rounding=3)
    changes = []
    for launch in range(launches):
        s.parameters, s.step = start, launch
        s.train(x, y)
        changes.append(start[0][1] - s.parameters[0][1])
    s.parameters = start
    delta = ((s.predict(x) - np.eye(10, dtype=np.float32)[y]) / count).astype(np.float32)
    exponents = quantise(delta, 0, SMALL.side).exponents.astype(float)
    steps = np.kron(2.0 ** (exponents - 133), np.ones((SMALL.side, SMALL.side)))[:count, :10]
    cut = np.maximum(np.abs(delta) - 127 * steps, 0).sum(axis=0)
    bound = 5 * np.sqrt((steps**2 / 4).sum(axis=0) / launches) + 2.0**-16 * steps.sum(axis=0) + cut + 1e-6
    assert (np.abs(np.mean(changes, axis=0) - delta.sum(axis=0, dtype=float)) <= bound).all()
    assert np.ptp(changes, axis=0).max() > 0
    # To nearest the error is the same each time, and of one element at least beyond the bound.
    nearest = session(network, optimizer=Sgd(1.0))
    nearest.parameters = start
    nearest.train(x, y)
    error = start[0][1] - nearest.parameters[0][1] - delta.sum(axis=0, dtype=float)
    assert (np.abs(error) > bound).any()


def commands(monkeypatch, **options) -> list[tuple[Opcode, dict[str, int]]]:
    """Every command that training and evaluation add to any program."""
    found, append = [], Program._append

    def spy(self, opcode, fields, wait, post):
        found.append((opcode, dict(fields)))
        return append(self, opcode, fields, wait, post)

    monkeypatch.setattr(Program, "_append", spy)
    s = session(**options)
    x, y = np.zeros((40, 21), np.uint8), np.zeros(40, int)
    s.train(x, y)
    s.evaluate(x, y)
    s.train(x, y)
    monkeypatch.undo()
    return found


def test_only_the_deltas_are_rounded_so_and_each_training_is_seeded(monkeypatch):
    found = commands(monkeypatch, stochastic_rounding=1)
    rounded = [f for opcode, f in found if opcode == Opcode.QUANT and f["rounding"] == Rounding.STOCHASTIC]
    assert {f["cols"] for f in rounded} == {17, 11}
    assert {f["rows"] for f in rounded} == {20}
    seeds = [f["seed"] for opcode, f in found if opcode == Opcode.SEED]
    assert len(seeds) == len(set(seeds)) == 2


def test_without_it_there_is_no_such_command(monkeypatch):
    found = commands(monkeypatch)
    assert all(opcode != Opcode.SEED for opcode, _ in found)
    assert all(f["rounding"] == Rounding.NEAREST for opcode, f in found if opcode == Opcode.QUANT)


def on_device(backend: str, **options):
    x = np.random.default_rng(2).integers(0, 256, (22, 6), np.uint8)
    with Device(backend, "tiny", **options) as device:
        device.load_model(Network(6, (Dense(5, "relu"), Dense(3, "softmax"))), input_scale=1 / 255, seed=1)
        device.compile(optimizer=Adam(0.01), batch_size=4)
        history = device.fit(x, x[:, :3].argmax(axis=1), epochs=2)
        return device.state, history


@pytest.mark.verilator
def test_the_same_bits_on_the_rtl():
    rtl, model = (on_device(backend, stochastic_rounding=7) for backend in ("rtl", "model"))
    assert rtl[0].same(model[0])
    assert rtl[1] == model[1]
    assert not rtl[0].same(on_device("model")[0])
    assert not rtl[0].same(on_device("model", stochastic_rounding=8)[0])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, InputError, "stochastic_rounding must be 0 or more, not -1"),
        (True, InputTypeError, "stochastic_rounding must be an integer, not True"),
        (0.5, InputTypeError, "stochastic_rounding must be an integer, not 0.5"),
    ],
)
def test_seed_is_checked(value, error, message):
    with pytest.raises(error, match=message):
        Device("model", "tiny", stochastic_rounding=value)


@pytest.mark.parametrize("value", [0, 1 << 32, -1])
def test_program_checks_the_seed(value):
    with pytest.raises(ValueError, match=f"SEED.seed must be from 1 to 4294967295, not {value}"):
        Program(SMALL).seed(value)

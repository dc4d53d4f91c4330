"""``make mnist`` on a small set: epochs are kept, an interrupted run goes on, the RTL is held to the simulator."""

import re
from io import StringIO

import numpy as np
import pytest
from lepton_sim import mnist as program
from lepton_sim.mnist import MismatchError, Run, epoch_order, main, run_mnist
from leptonaicsdk.datasets import digits
from rich.console import Console

OPTIONS = ["--backend", "model", "--images", "320"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The carried sample in place of MNIST, and a folder of its own for what is kept."""
    data = digits()
    np.savez(tmp_path / "mnist.npz", **data._asdict())
    monkeypatch.setenv("LEPTON_MNIST", str(tmp_path / "mnist.npz"))
    monkeypatch.setattr(program, "build_folder", lambda: tmp_path)
    return tmp_path / "mnist"


def _kept(folder):
    """Words and history of the last epoch that is kept."""
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    path = sorted(run.glob("epoch-*.npz"))[-1]
    with np.load(path) as file:
        history = re.sub(r'"seconds": [0-9.e-]+', "", str(file["history"]))
        return path.name, file["words"].copy(), int(file["step"]), history


def test_an_interrupted_run_goes_on_from_its_last_epoch(folder, monkeypatch, capsys):
    """To the same words, and the same history, as one that is not interrupted."""
    assert main([*OPTIONS, "--epochs", "3"]) == 0
    whole = _kept(folder)
    assert whole[0] == "epoch-003.npz"
    assert whole[2] == 30
    assert (folder / "model-train-adam-batch32-precision8-images320-seed1.png").stat().st_size > 10_000
    assert "goes on after" not in capsys.readouterr().out

    train, calls = program.train_epoch, []

    def interrupted(session, run, data, number):
        calls.append(number)
        if calls == [1, 2]:
            next(train(session, run, data, number))  # some of the second epoch is done
            raise KeyboardInterrupt
        yield from train(session, run, data, number)

    monkeypatch.setattr(program, "train_epoch", interrupted)
    assert main([*OPTIONS, "--epochs", "3", "--restart"]) == 130
    assert "goes on after the last whole epoch" in capsys.readouterr().err
    assert _kept(folder)[0] == "epoch-001.npz"
    assert main([*OPTIONS, "--epochs", "3"]) == 0
    assert calls == [1, 2, 2, 3]
    assert "goes on after epoch 1" in capsys.readouterr().out
    for found, expected in zip(_kept(folder), whole, strict=True):
        assert np.array_equal(found, expected)


def test_every_epoch_and_seed_has_its_own_order():
    orders = [epoch_order(seed, epoch, 500).tolist() for seed in (1, 2) for epoch in (1, 2)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert epoch_order(1, 2, 500).tolist() == orders[1]


@pytest.mark.verilator
@pytest.mark.slow
def test_the_rtl_is_held_to_the_simulator(folder, monkeypatch):
    """An epoch of ten steps, every word; and a bit that differs ends the run before it is kept."""
    run = Run(epochs=1, images=320)
    console = Console(file=StringIO(), width=200)
    epochs, scores = run_mnist(run, "rtl", check=True, restart=False, console=console)
    assert "every word as in the simulator" in console.file.getvalue()
    assert epochs[0].counters["CYCLES"] > 10 * 20_000
    assert scores.count == 256
    states = program._model_states
    _, words, step, _ = _kept(folder)

    def wrong(*arguments):
        expected, steps = states(*arguments)
        assert np.array_equal(expected, words)
        assert steps == step
        expected[1, 5, 3] ^= 1 << 31
        return expected, steps

    monkeypatch.setattr(program, "_model_states", wrong)
    monkeypatch.setattr(program, "ProcessPoolExecutor", _Here)
    with pytest.raises(
        MismatchError, match=r"epoch 1: 1 of \d+ words differ .* first slot 1, row 5, lane 3: expected 0x"
    ):
        run_mnist(run, "rtl", check=True, restart=True, console=console)
    assert not list(folder.glob("*/epoch-*.npz"))


class _Here:
    """A pool whose work is done at once, in this process."""

    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        result = function(*arguments)
        return type("Done", (), {"result": lambda _: result})()


def test_the_plan_is_printed_and_nothing_trained(folder, capsys):
    assert main(["--plan", "--batch", "128"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("training step of 784-64-10, batch 128, precision 8, samples uint8")
    assert "inference of 784-64-10" in printed
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be 1 or more, not 0"),
        (["--batch", "0"], "batch must be 1 or more, not 0"),
        (["--precision", "7"], "invalid choice: 7"),
    ],
)
def test_bad_choices(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_what_cannot_run_says_why(capsys, monkeypatch, tmp_path):
    assert main(["--preset", "tiny", "--backend", "model", "--epochs", "1"]) == 1
    assert "mnist: the network cannot run on this core" in capsys.readouterr().err
    monkeypatch.setenv("LEPTON_MNIST", str(tmp_path / "nowhere"))
    assert main([*OPTIONS, "--epochs", "1"]) == 1
    assert "mnist: " in capsys.readouterr().err

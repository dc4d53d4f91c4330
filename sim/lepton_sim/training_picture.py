"""A picture of a training run: the loss, the accuracy, and where the cycles go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ENGINES", "Epoch", "draw"]

ENGINES = ("MATMUL", "VECTOR", "QUANT", "LOAD", "STORE")


@dataclass
class Epoch:
    """One epoch's figures: mean loss and accuracy on the training samples, each before its step, and on the test's."""

    number: int
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    steps: int
    seconds: float
    losses: list[float] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)


def draw(epochs: Sequence[Epoch], path: Path, title: str) -> Path:
    """Write the picture as a PNG; with cycles only where a core counted them."""
    from matplotlib.figure import Figure

    cycles = sum(epoch.counters.get("CYCLES", 0) for epoch in epochs)
    figure = Figure(figsize=(12 if cycles else 8, 4.5), layout="constrained")
    axes = figure.subplots(1, 3 if cycles else 2)
    figure.suptitle(f"784-64-10 on MNIST: {title}")
    numbers = [epoch.number for epoch in epochs]

    loss = axes[0]
    places, losses = [], []
    for epoch in epochs:
        places += [epoch.number - 1 + (i + 0.5) / len(epoch.losses) for i in range(len(epoch.losses))]
        losses += epoch.losses
    loss.plot(places, losses, color="tab:blue", linewidth=0.8, label="training")
    loss.plot(numbers, [epoch.test_loss for epoch in epochs], "o-", color="tab:orange", label="test")
    loss.set(xlabel="epoch", ylabel="loss", yscale="log")
    loss.legend()

    accuracy = axes[1]
    accuracy.plot(numbers, [epoch.accuracy for epoch in epochs], "o-", color="tab:blue", label="training")
    accuracy.plot(numbers, [epoch.test_accuracy for epoch in epochs], "o-", color="tab:orange", label="test")
    accuracy.axhline(0.97, color="grey", linewidth=0.8, linestyle=":")
    accuracy.set(xlabel="epoch", ylabel="accuracy", xticks=numbers)
    accuracy.legend()

    if cycles:
        steps = sum(epoch.steps for epoch in epochs)
        busy = [sum(epoch.counters[f"{name}_BUSY"] for epoch in epochs) / steps for name in ENGINES]
        bars = axes[2].barh(ENGINES, busy, color="tab:green")
        axes[2].bar_label(bars, [f"{value:,.0f}" for value in busy], padding=3)
        axes[2].axvline(cycles / steps, color="black", linewidth=0.8)
        axes[2].set(xlabel=f"busy cycles a step, of {cycles / steps:,.0f}", xlim=(0, cycles / steps * 1.25))
        axes[2].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path

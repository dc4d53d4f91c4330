"""Trains 784-64-10 on MNIST without Keras, and shows what evaluation and counters tell.

    python examples/mnist_network.py --backend model            # the whole of MNIST, five epochs
    python examples/mnist_network.py --backend model --sample   # the 2000 digits that the project carries

Bytes go to the device as they are; it divides them by 255.
"""

import argparse

from leptonaicsdk import Adam, Dense, Device, Network, Progress
from leptonaicsdk.datasets import digits, mnist


def show(progress: Progress) -> None:
    """One line an epoch, overwritten as it goes."""
    metrics = progress.metrics
    done = f"epoch {progress.epoch + 1}/{progress.epochs}, batch {progress.batches}/{progress.total}"
    end = "\n" if progress.batches == progress.total else ""
    print(f"\r{done}: loss {metrics.loss:.4f}, accuracy {metrics.accuracy:.4f}", end=end, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("rtl", "model"), default=None)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", type=int, choices=(8, 16, 32), default=8)
    parser.add_argument("--sample", action="store_true", help="the sample that the project carries")
    options = parser.parse_args()

    data = digits() if options.sample else mnist()
    network = Network(784, (Dense(64, "relu"), Dense(10, "softmax")))
    with Device(options.backend) as device:
        device.set_precision(options.precision)
        device.load_model(network, input_scale=1 / 255, seed=1)
        device.compile(optimizer=Adam(learning_rate=0.001), batch_size=32)
        device.fit(data.x_train, data.y_train, epochs=options.epochs, seed=1, on_progress=show)
        evaluation = device.evaluate(data.x_test, data.y_test)
        counters = device.counters

    print(f"Test: {evaluation}")
    assert evaluation.scores is not None
    for digit, recall in enumerate(evaluation.scores.recall_per_class):
        f1 = evaluation.scores.f1_per_class[digit]
        print(f"  {digit}: {evaluation.scores.support[digit]} images, recall {recall:.4f}, F1 {f1:.4f}")
    if counters["CYCLES"]:
        print(
            f"{counters['CYCLES']} cycles, the array busy in {counters['MATMUL_BUSY'] / counters['CYCLES']:.1%} of them"
        )


if __name__ == "__main__":
    main()

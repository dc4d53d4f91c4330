"""Two jobs on one core: a network is trained in one context, while another, trained before, classifies in a second.

    python examples/two_jobs.py --backend model
    python examples/two_jobs.py                  # on the RTL, with the cycles of each job and of both

Each context has its own part of the memories, on the chip and outside, and cannot reach that of the other. What a job
computes does not depend on what runs beside it. At the end one context is emptied, for whoever is next.
"""

import argparse

import numpy as np
from leptonaicsdk import Adam, Core, Dense, Device, Network
from leptonaicsdk.datasets import digits

NETWORK = Network(784, (Dense(64, "relu"), Dense(10, "softmax")))
HALF = {"vmem_rows": 4096, "acc_rows": 2048, "tiles": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("rtl", "model"), default=None)
    options = parser.parse_args()
    data = digits()
    half = len(data.x_train) // 2

    with Core("default", backend=options.backend) as core:
        first, second = core.context(0, **HALF), core.context(1, **HALF)
        with Device(first) as learner, Device(second) as worker:
            for device, seed in ((learner, 1), (worker, 2)):
                device.load_model(NETWORK, input_scale=1 / 255, seed=seed)
                device.compile(optimizer=Adam(learning_rate=0.002), batch_size=32)
            worker.fit(data.x_train[:half], data.y_train[:half])

            def learn() -> float:
                return learner.fit(data.x_train[half:], data.y_train[half:])["accuracy"][-1]

            def work() -> float:
                predicted = worker.predict(data.x_test).argmax(axis=1)
                return float(np.mean(predicted == data.y_test))

            alone = core.run(work)
            done = core.run(learn, work)
        trained, classified = done.results
        assert classified == alone.results[0]
        print(f"Context 0 trained on {half} images, accuracy {trained:.4f}; meanwhile")
        print(f"context 1 classified {len(data.x_test)} images, accuracy {classified:.4f}")
        if done.total:
            print(
                f"{done.total} cycles for both; the second alone takes {alone.total}, beside the first {done.cycles[1]}"
            )
        second.kill()
        second.scrub()
        second.close()


if __name__ == "__main__":
    main()

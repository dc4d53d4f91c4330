"""What all tests share: the seed in the header, and tests that say why they are skipped."""

import gc
import os
import shutil
import signal

import hypothesis
import pytest

# A machine under load is slow, and no test is about time.
hypothesis.settings.register_profile("lepton", deadline=None)
hypothesis.settings.load_profile("lepton")

# A shell starts what runs in its background with interrupts ignored, and Python then leaves them so: a run under
# nohup or from a job runner would find that Ctrl-C does nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def seed_from_environment() -> int:
    """The seed of this run: environment variable SEED, or 1."""
    return int(os.environ.get("SEED") or "1", 0)


def pytest_report_header() -> str:
    return f"SEED={seed_from_environment()} (replay with SEED=...)"


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed that every random choice of a test starts from."""
    return seed_from_environment()


def pytest_collection_finish() -> None:
    """What the tests have imported lives to the end: Python's collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # a long test at the end would run alone
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if shutil.which("iverilog") is None:
        skip = pytest.mark.skip(reason="Icarus Verilog is not installed: apt-get install iverilog")
        for item in items:
            if "icarus" in item.keywords:
                item.add_marker(skip)

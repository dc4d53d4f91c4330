"""What all tests share: the seed in the header, and tests that say why they are skipped."""

import os
import shutil

import hypothesis
import pytest

# A machine under load is slow, and no test is about time.
hypothesis.settings.register_profile("lepton", deadline=None)
hypothesis.settings.load_profile("lepton")


def seed_from_environment() -> int:
    """The seed of this run: environment variable SEED, or 1."""
    return int(os.environ.get("SEED") or "1", 0)


def pytest_report_header() -> str:
    return f"SEED={seed_from_environment()} (replay with SEED=...)"


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed that every random choice of a test starts from."""
    return seed_from_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("iverilog") is None:
        skip = pytest.mark.skip(reason="Icarus Verilog is not installed: apt-get install iverilog")
        for item in items:
            if "icarus" in item.keywords:
                item.add_marker(skip)

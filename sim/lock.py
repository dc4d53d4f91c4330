"""Writes `requirements.lock`: the exact versions, of the present environment, of everything pyproject.toml leads to.

Run after a change of a dependency, in an environment that works: ``python sim/lock.py``.
"""

import importlib.metadata as metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and version of every installed distribution that ``requirements`` lead to."""
    pending = [Requirement(text) for text in requirements]
    found: dict[str, str] = {}
    while pending:
        requirement = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        distribution = metadata.distribution(requirement.name)
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            raise SystemExit(f"{requirement} does not match the installed {distribution.version}")
        name = normal(distribution.metadata["Name"])
        if name not in found:
            found[name] = distribution.version
            pending += [Requirement(text) for text in distribution.requires or []]
    return found


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    lines = [
        "# Every package of the environment, direct or not, at the version the project was tested with.",
        "# Written by `python sim/lock.py` from pyproject.toml, where each direct dependency has its reason.",
        *(f"{name}=={version}" for name, version in sorted(closure(direct).items())),
    ]
    (ROOT / "requirements.lock").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

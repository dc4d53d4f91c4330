"""Bugs to plant in a unit: each is a change of a line of its file, and the rest stays as it is."""

import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amaranth.hdl import Elaboratable

__all__ = ["Bug", "planted"]


@dataclass(frozen=True)
class Bug:
    """In module ``lepton_npu.<module>`` (or ``amaranth....``) the text ``old``, which is there once, is ``new``."""

    module: str
    old: str
    new: str


@contextmanager
def planted(bug: Bug | None) -> Iterator[None]:
    """While this is entered, units of the core and functions beside them are made from the text with ``bug``.

    Whoever has imported them from their module gets the ones with the bug, until the end.

    Raises
    ------
    ValueError
        If the text is not there once: a change of a line that a bug quotes changes the bug, too.
    """
    if bug is None:
        yield
        return
    original = importlib.import_module(bug.module if bug.module.startswith("amaranth.") else f"lepton_npu.{bug.module}")
    path = Path(str(original.__file__))
    text = path.read_text()
    if (count := text.count(bug.old)) != 1:
        raise ValueError(f"a planted bug quotes {bug.old!r}, which must be in {path.name} once, not {count} times")
    changed = types.ModuleType(original.__name__)
    changed.__package__ = original.__package__
    exec(compile(text.replace(bug.old, bug.new), f"{path.name} with a bug", "exec"), changed.__dict__)
    swapped = {
        id(value): getattr(changed, name)
        for name, value in vars(original).items()
        if getattr(value, "__module__", None) == original.__name__
        and (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, Elaboratable)))
    }
    restore = []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in ("lepton_npu", "formal"):
            continue
        for attribute, value in list(vars(module).items()):
            if id(value) in swapped:
                restore.append((module, attribute, value))
                setattr(module, attribute, swapped[id(value)])
    try:
        yield
    finally:
        for module, attribute, value in restore:
            setattr(module, attribute, value)

"""Bugs to plant in a unit: each is a change of a line of its file, and the rest stays as it is."""

import importlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
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
def planted(*bugs: Bug | None, names: Mapping[str, object] | None = None) -> Iterator[None]:
    """While this is entered, units of the core and functions beside them are made from the text with ``bugs``.

    Whoever has imported them from their module gets the ones with the bugs, until the end.

    Parameters
    ----------
    bugs : Bug or None
        Several in one module are planted one after the other.
    names : mapping of str to object
        What the bugs' texts may use besides the names of the module.

    Raises
    ------
    ValueError
        If the text is not there once: a change of a line that a bug quotes changes the bug, too.
    """
    texts: dict[str, str] = {}
    for bug in bugs:
        if bug is None:
            continue
        name = bug.module if bug.module.startswith("amaranth.") else f"lepton_npu.{bug.module}"
        path = Path(str(importlib.import_module(name).__file__))
        text = texts.get(name) or path.read_text()
        if (count := text.count(bug.old)) != 1:
            raise ValueError(f"a planted bug quotes {bug.old!r}, which must be in {path.name} once, not {count} times")
        texts[name] = text.replace(bug.old, bug.new)
    made = {name: _changed(name, text, names or {}) for name, text in texts.items()}
    swapped = {
        id(value): getattr(made[name], attribute)
        for name in made
        for attribute, value in vars(importlib.import_module(name)).items()
        if getattr(value, "__module__", None) == name
        and (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, Elaboratable)))
    }
    restore = []
    users = [module for name, module in sys.modules.items() if name.split(".")[0] in ("lepton_npu", "formal")]
    for module in [*users, *made.values()]:
        for attribute, value in list(vars(module).items()):
            if id(value) in swapped:
                restore.append((module, attribute, value))
                setattr(module, attribute, swapped[id(value)])
    try:
        yield
    finally:
        for module, attribute, value in restore:
            setattr(module, attribute, value)


def _changed(name: str, text: str, names: Mapping[str, object]) -> types.ModuleType:
    """The module ``name``, but of this text."""
    changed = types.ModuleType(name)
    changed.__package__ = importlib.import_module(name).__package__
    changed.__dict__.update(names)
    exec(compile(text, f"{name} with a bug", "exec"), changed.__dict__)
    return changed

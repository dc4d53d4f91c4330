"""Puts the three methods on ``keras.Model`` for as long as a device is initialised."""

import functools
import importlib
import importlib.util
import sys
import weakref
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import StateError

if TYPE_CHECKING:
    from ..device import Device

__all__ = ["NAMES", "function", "install", "serving", "uninstall"]

NAMES = ("fit", "evaluate", "predict")

_references: list["weakref.ref[Device]"] = []
"""Initialised devices; the last one serves the models that are not bound to one."""


def serving() -> "Device":
    """The device that serves models which are not bound to one.

    Raises
    ------
    StateError
        If none is initialised.
    """
    for reference in reversed(_references):
        if (device := reference()) is not None:
            return device
    raise StateError("no device is initialised: call initialize() first")


def function(name: str, model: Any, device: "Device") -> Callable[..., Any]:
    """``fit``, ``evaluate`` or ``predict`` of ``model`` on ``device``, with Keras's signature and documentation."""
    loop = importlib.import_module(f"{__package__}.loop")

    @functools.wraps(getattr(type(model), name))
    def run(*args: Any, **options: Any) -> Any:
        return getattr(loop, name)(device, model, *args, **options)

    run.lepton_device = device  # type: ignore[attr-defined]
    return run


def _method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    loop = importlib.import_module(f"{__package__}.loop")

    @functools.wraps(original)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        return getattr(loop, name)(serving(), self, *args, **options)

    run.lepton_original = original  # type: ignore[attr-defined]
    return run


def _patch(keras: ModuleType) -> None:
    for name in NAMES:
        if name not in vars(keras.Model):
            setattr(keras.Model, name, _method(name, getattr(keras.Model, name)))


def _restore(keras: ModuleType) -> None:
    for name in NAMES:
        if hasattr(vars(keras.Model).get(name), "lepton_original"):
            delattr(keras.Model, name)


class _AfterImport(MetaPathFinder):
    """Patches Keras when a program imports it after it has initialised a device."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            try:
                execute(module)
            except BaseException:
                _watch()
                raise
            if _references:
                _patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _AfterImport()


def _watch() -> None:
    if _references and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def install(reference: "weakref.ref[Device]") -> None:
    """Let a device serve all Keras models, now or as soon as Keras is imported."""
    _references.append(reference)
    keras = sys.modules.get("keras")
    if hasattr(keras, "Model"):
        _patch(keras)  # type: ignore[arg-type]
    else:
        _watch()


def uninstall(reference: "weakref.ref[Device]") -> None:
    """Take that back; after the last device, Keras is as it was."""
    if reference in _references:
        _references.remove(reference)
    if _references:
        return
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    keras = sys.modules.get("keras")
    if hasattr(keras, "Model"):
        _restore(keras)  # type: ignore[arg-type]

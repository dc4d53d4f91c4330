"""Keras 3 on the device: Keras's own ``fit``, ``evaluate`` and ``predict``, whatever its backend.

`bind` sets the three methods on a model; `install` sets them on ``keras.Model``, which has none of its own (it inherits
those of its backend), so that nothing is overwritten and deleting the attributes gives Keras back exactly. The host
holds the model: each call on the device begins with the weights and optimizer variables that are in it, and they are
written back before any callback sees the model.

This module and `hook` import no Keras: a program that has none, or has not chosen its backend yet, is not disturbed.
"""

import sys
from typing import TYPE_CHECKING, Any

from ..loaded import Loaded
from .hook import NAMES, function, install, serving, uninstall

if TYPE_CHECKING:
    from ..device import Device

__all__ = ["bind", "install", "is_model", "model_of", "serving", "unbind", "uninstall"]


def is_model(model: Any) -> bool:
    """Whether ``model`` is a Keras model."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, getattr(keras, "Model", ()))


def bind(model: Any, device: "Device") -> Loaded:
    """Set the three methods on ``model``.

    Raises
    ------
    ModelError
        If the device cannot run it; the message names the layer. A model that is not built yet is looked at in the call
        that builds it.
    """
    from .model import KerasModel

    loaded = KerasModel(model)
    if model.built:
        loaded.refresh()
    for name in NAMES:
        object.__setattr__(model, name, function(name, model, device))
    return loaded


def model_of(loaded: Loaded) -> Any:
    """The Keras model behind ``loaded``, None for a Network."""
    return getattr(loaded, "model", None)


def unbind(loaded: Loaded, device: "Device") -> None:
    """Remove the three methods that `bind` set for ``device``, if they are still there."""
    model = model_of(loaded)
    for name in NAMES if model is not None else ():
        if getattr(vars(model).get(name), "lepton_device", None) is device:
            object.__delattr__(model, name)

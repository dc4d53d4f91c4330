"""What the SDK raises. Every message names the argument, its value and what is allowed."""

__all__ = ["InputError", "InputTypeError", "LeptonError", "ModelError", "StateError"]


class LeptonError(Exception):
    """Root of the SDK's own errors."""


class StateError(LeptonError, RuntimeError):
    """A call in the wrong order: before ``initialize()``, before ``load_model()``, after ``deinitialize()``."""


class InputError(LeptonError, ValueError):
    """An argument or a data set with a value, shape or range that is not allowed."""


class InputTypeError(LeptonError, TypeError):
    """An argument or a data set of a type that is not allowed."""


class ModelError(LeptonError, ValueError):
    """A model that the device cannot run; the message names the layer, loss, optimizer or metric, and says why."""

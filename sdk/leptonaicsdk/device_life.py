"""The life of a device: what it is made of, from ``initialize()`` to ``deinitialize()``."""

import weakref
from types import TracebackType
from typing import Any, Self

from lepton_npu.spec.config import PRESETS

from . import inputs, keras_binding
from .address_space import checked_page_bytes
from .backend import chosen_kind
from .context import Context
from .driver import Fault
from .errors import InputError, InputTypeError, StateError
from .memory import Memory
from .runner import Runner

__all__ = ["DeviceLife"]

PRESET, MEMORY_BYTES = "train", 1 << 27
PRECISIONS = (8, 16, 32)


class DeviceLife:
    """What a `Device` is without a model: see there."""

    def __init__(
        self,
        backend: str | Context | None = None,
        preset: str = PRESET,
        *,
        memory_bytes: int = MEMORY_BYTES,
        memory: Memory | None = None,
        stochastic_rounding: int | None = None,
        page_bytes: int | None = None,
        patch_keras: bool = True,
    ):
        context = backend if isinstance(backend, Context) else None
        kind = backend.kind if isinstance(backend, Context) else chosen_kind(backend)
        if preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
        if context is not None and (preset, memory_bytes, memory, page_bytes) != (PRESET, MEMORY_BYTES, None, None):
            raise InputError(
                "preset, memory_bytes, memory and page_bytes must be left out: the context's core has them"
            )
        self._names = (kind, "" if context is not None else preset)
        size = inputs.whole("memory_bytes", memory_bytes)
        if stochastic_rounding is not None:
            stochastic_rounding = inputs.whole("stochastic_rounding", stochastic_rounding, 0)
        checked = self._checked_memory(memory or Memory())
        self._runner = Runner(
            kind, PRESETS[preset], size, checked, stochastic_rounding, checked_page_bytes(page_bytes), context
        )
        self._patch_keras = patch_keras
        self._precision = 8
        self._release: weakref.finalize | None = None

    # Life of a device

    @property
    def backend(self) -> str:
        """Its name, "rtl" or "model"."""
        return self._names[0]

    @property
    def preset(self) -> str:
        """As given to the constructor; "" on a context of a `Core`."""
        return self._names[1]

    @property
    def memory(self) -> Memory:
        """How the device's memory answers; errors that are over are left out. May be set at any time."""
        return self._runner.memory

    @memory.setter
    def memory(self, value: Memory):
        self._runner.memory = self._checked_memory(value)

    def _checked_memory(self, value: Memory) -> Memory:
        if not isinstance(value, Memory):
            raise InputTypeError(f"memory must be a Memory, not {type(value).__name__}")
        if value.errors and self.backend != "rtl":
            raise InputError(f"memory must be without errors for the backend {self.backend}, which has no bus")
        return value

    @property
    def initialized(self) -> bool:
        """Whether the device is between ``initialize()`` and ``deinitialize()``."""
        return self._release is not None

    def initialize(self) -> None:
        """Open the backend; the first time for a configuration, "rtl" builds the simulator.

        Raises
        ------
        StateError
            If the device is initialised already.
        """
        if self.initialized:
            raise StateError("the device is initialised already: deinitialize() comes first")
        self._runner.open()
        self._precision = 8
        reference: weakref.ref[Any] = weakref.ref(self)
        if self._patch_keras:
            keras_binding.install(reference)
        self._release = weakref.finalize(self, _release, self._runner, reference)

    def deinitialize(self) -> None:
        """Close the backend and give Keras its own methods back; weights stay where they are, in the host.

        Raises
        ------
        StateError
            If the device is not initialised.
        """
        self._check_initialized("deinitialize()")
        assert self._release is not None
        release, self._release = self._release, None
        self._unload()
        release()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.initialized:
            self.deinitialize()

    def _check_initialized(self, call: str):
        if not self.initialized:
            raise StateError(f"{call} needs an initialised device: call initialize() first")

    def _unload(self):
        """Let go of the model, if there is one."""

    @property
    def precision(self) -> int:
        """Bits of a mantissa: 8, 16 or 32."""
        return self._precision

    def set_precision(self, bits: int) -> None:
        """Compute with mantissas of 8, 16 or 32 bits from the next call on; 8 after ``initialize()``.

        Raises
        ------
        StateError
            Before ``initialize()``.
        InputError
            For any other number; the precision stays as it was.
        """
        self._check_initialized("set_precision()")
        if isinstance(bits, bool) or bits not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(map(str, PRECISIONS))}, not {bits!r}")
        self._precision = int(bits)

    @property
    def counters(self) -> dict[str, int]:
        """The core's counters by name, summed over all that the device has run; empty before that."""
        return self._runner.counters

    @property
    def fault(self) -> Fault | None:
        """The last fault of the core, None if there was none. The call that met it raised `CoreFaultError`."""
        return self._runner.fault


def _release(runner: Runner, reference: "weakref.ref[Any]") -> None:
    """What is done for a device that ends in any way."""
    try:
        keras_binding.uninstall(reference)
    finally:
        runner.close()

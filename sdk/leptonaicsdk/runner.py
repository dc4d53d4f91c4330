"""Keeps a session on the device for what is to be run, with the state the host holds, and survives what goes wrong."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .backend import Backend, open_backend
from .context import Context
from .driver import CoreFaultError, Fault
from .errors import ModelError, StateError
from .interrupts import deferred
from .memory import Memory
from .network import Loss, Network, Optimizer
from .session import Metrics, Session
from .state import State
from .training.plan import Plan
from .turns import ContextKilledError

__all__ = ["Runner", "Setup"]

T = TypeVar("T")


@dataclass(frozen=True)
class Setup:
    """What a program of the device is compiled for. Another setup needs another session."""

    network: Network
    loss: Loss
    optimizer: Optimizer | None
    batch: int
    precision: int
    input_scale: float = 1.0


class Runner:
    """A backend, and the session on it.

    An interrupt (Ctrl-C) waits until the device has done what it was asked for. A call that ends in any other exception
    (a fault of the core, a second Ctrl-C) leaves ``state`` as it was when it was last read or set, and the backend is
    opened anew for the next call.

    Parameters
    ----------
    kind : str
        "rtl" or "model".
    config : NpuConfig
    memory_bytes : int
        Size of the device's memory.
    memory : Memory
        How it answers.
    stochastic_rounding : int or None
        Of `Session`.
    page_bytes : int or None
        Size of the pages by which addresses are translated; None: they are physical.
    context : Context or None
        What is used instead of a backend of the device's own, and reset where that would be opened anew.

    Attributes
    ----------
    fault : Fault or None
        The last fault of the core.
    """

    def __init__(
        self,
        kind: str,
        config: NpuConfig,
        memory_bytes: int,
        memory: Memory,
        stochastic_rounding: int | None = None,
        page_bytes: int | None = None,
        context: Context | None = None,
    ):
        self._kind, self._config, self._memory_bytes, self._memory = kind, config, memory_bytes, memory
        self._stochastic_rounding, self._page_bytes, self._context = stochastic_rounding, page_bytes, context
        self._backend: Backend | None = None
        self._session: Session | None = None
        self._setup: Setup | None = None
        self._state: State | None = None
        self._trained = False  # since self._state was read from the session
        self._earlier: Counter[str] = Counter()
        self.fault: Fault | None = None

    def open(self):
        """Open the backend, if it is not."""
        if self._backend is None:
            self._backend = self._context or open_backend(
                self._kind, self._config, memory_bytes=self._memory_bytes, timing=self._memory,
                page_bytes=self._page_bytes,
            )  # fmt: skip

    @property
    def memory(self) -> Memory:
        """How the memory answers: as set, without the errors that are over."""
        backend = self._backend or self._context
        return self._memory if backend is None else backend.timing

    @memory.setter
    def memory(self, value: Memory):
        if (backend := self._backend or self._context) is not None:
            backend.timing = value
        self._memory = value

    def close(self):
        """Close session and backend; calling it again does nothing."""
        session, backend, self._session, self._backend = self._session, self._backend, None, None
        self._setup, self._state, self._trained = None, None, False
        try:
            if session is not None:
                session.close()
        finally:
            if backend is not None and backend is not self._context:
                try:
                    self._memory = backend.timing
                    self._earlier.update(backend.counters())
                finally:
                    backend.close()

    @property
    def counters(self) -> dict[str, int]:
        """The core's counters, summed over all backends so far; those of a context since it is in use."""
        total = Counter(self._earlier)
        if (backend := self._backend or self._context) is not None:
            total.update(backend.counters())
        return dict(total)

    @property
    def state(self) -> State:
        """What the session holds; after a call that went wrong, what it held when this was last read or set."""
        if self._trained:
            self._state, self._trained = self._call(lambda session: session.state), False
        if self._state is None:
            raise StateError("nothing has been run on the device yet")
        return self._state

    def prepare(self, setup: Setup, state: State):
        """Have a session for ``setup`` that holds ``state``; what is there already is kept.

        Raises
        ------
        ModelError
            If the device cannot run this model; the message names the layer.
        """
        if setup != self._setup:
            if self._session is not None:
                self._session.close()
            self._session, self._setup, self._state, self._trained = None, None, None, False
            self.open()
            assert self._backend is not None
            try:
                self._session = Session(
                    self._backend,
                    setup.network,
                    loss=setup.loss,
                    optimizer=setup.optimizer,
                    batch=setup.batch,
                    precision=setup.precision,
                    input_scale=setup.input_scale,
                    stochastic_rounding=self._stochastic_rounding,
                )
            except ValueError as error:
                raise ModelError(str(error)) from error
            self._setup = setup
        if self._state is None or not self.state.same(state):
            self._call(lambda session: self._push(session, state))
            self._state = state.copy()

    @staticmethod
    def _push(session: Session, state: State):
        session.state = state

    def _call(self, action: Callable[[Session], T]) -> T:
        if self._session is None:
            raise StateError("nothing is loaded into the device")
        with deferred():
            try:
                return action(self._session)
            except BaseException as error:
                if isinstance(error, CoreFaultError):
                    self.fault = error.fault
                self._abandon()
                if self._context is not None and not isinstance(error, ContextKilledError):  # another job has it then
                    self._context.recover()
                raise

    def _abandon(self):
        """Close what may be in any condition; errors of closing would hide the one that led here."""
        kept = self._state
        with suppress(Exception):
            self.close()
        self._state = kept

    def plan(self, *, training: bool, bytes_in: bool) -> Plan:
        """See `Session.plan`."""
        return self._call(lambda session: session.plan(training=training, bytes_in=bytes_in))

    def train(self, x: NDArray, y: NDArray, learning_rate: float) -> Metrics:
        """Train on batches of ``x`` (n, inputs), the last of which may be partial."""
        self._trained = True
        return self._call(lambda session: session.train(x, y, learning_rate=learning_rate))

    def evaluate(self, x: NDArray, y: NDArray) -> Metrics:
        """Loss and correct predictions over ``x`` (n, inputs)."""
        return self._call(lambda session: session.evaluate(x, y))

    def predict(self, x: NDArray) -> NDArray[np.float32]:
        """Outputs (n, outputs) of ``x`` (n, inputs)."""
        return self._call(lambda session: session.predict(x))

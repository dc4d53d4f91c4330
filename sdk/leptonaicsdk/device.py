"""`Device`: a Lepton NPU, as a host program uses it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import inputs, keras_binding
from .device_life import DeviceLife
from .errors import InputError, InputTypeError, StateError
from .loaded import Loaded, LoadedNetwork, forward_slices, slices
from .metrics import Evaluation, Scores, confusion_matrix
from .network import Loss, Network, Optimizer
from .runner import Runner
from .session import Metrics
from .state import State, checked_parameters, checked_state, initial_parameters
from .training.plan import Plan

__all__ = ["Device", "Progress"]


@dataclass(frozen=True)
class Progress:
    """How far ``Device.fit`` is.

    Attributes
    ----------
    epoch, epochs : int
        The present one, from 0, and where it ends.
    batches, total : int
        Batches of this epoch that are done, and all of it.
    metrics : Metrics
        Over the batches done, each as it was before its own step.
    """

    epoch: int
    epochs: int
    batches: int
    total: int
    metrics: Metrics


class Device(DeviceLife):
    """A Lepton NPU: simulated as RTL, or by the bit-exact model.

    The order is ``initialize()``, ``load_model()``, for a `Network` ``compile()``, then ``fit``, ``evaluate``,
    ``predict`` as often as wanted, and ``deinitialize()``; used in a ``with`` statement, the first and the last come by
    themselves. A device that is not deinitialised is released when it is collected, or at exit.

    Between ``initialize()`` and ``deinitialize()`` every Keras model trains, evaluates and predicts on the device,
    loaded or not: see `keras_binding`.

    Parameters
    ----------
    backend : str, Context or None
        "rtl", the Verilog in a compiled simulator, or "model", the bit-exact model, which gives the same bits sooner;
        None is what the environment variable LEPTON_BACKEND names, or "rtl". A context of a `Core` shares that with
        other devices, and stays open behind the device; ``preset``, ``memory_bytes``, ``memory`` and ``page_bytes`` are
        the core's then.
    preset : str
        Name of the core's configuration.
    memory_bytes : int
        Size of the device's memory.
    memory : Memory
        How it answers: latency, bandwidth, and, with "rtl", injected errors.
    page_bytes : int or None
        4096, 2 MiB or 1 GiB: the device's memory is in an address space with pages of this size, and the core
        translates every address (docs/mmu.md); None: addresses are physical. Results are the same bits.
    stochastic_rounding : int or None
        With a seed of 0 or more, the gradients dE/dz are rounded stochastically to their tiles in training, with the
        same numbers by "rtl" and "model"; None rounds to nearest. docs/training.md says what the numbers depend on.
    patch_keras : bool
        False leaves Keras alone but for models given to ``load_model()``.

    Raises
    ------
    InputError
        For a backend or preset that does not exist, a memory of no bytes, errors without a bus, and a negative seed.
    """

    _loaded: Loaded | None = None
    _training = False  # a callback of fit may ask for the state

    # What it runs

    def load_model(
        self, model: Any, *, parameters: Any = None, input_scale: float | None = None, seed: int | None = None
    ) -> None:
        """Load a `Network`, or bind a Keras model: its ``fit``, ``evaluate`` and ``predict`` then run on the device.

        Parameters
        ----------
        model : Network or keras.Model
            A Sequential or functional Keras model of dense layers. Its weights and what it was compiled with stay in
            the model and are read at each call, so that a model changed after loading is run as changed.
        parameters : list of (weights, bias)
            For a Network: a pair a layer, (inputs, outputs) and (outputs,). By default Glorot-uniform weights from
            ``seed``.
        input_scale : float
            For a Network: the device multiplies the input by it, 1 by default; 1 / 255 makes bytes 0 .. 1.
        seed : int
            For a Network: of the weights, 0 by default.

        Raises
        ------
        StateError
            Before ``initialize()``.
        InputTypeError
            For anything else than a Network and a Keras model.
        InputError
            For parameters of other shapes or not finite, and arguments that do not go with a Keras model.
        ModelError
            For a Keras model that the device cannot run; the message names the layer.
        """
        self._check_initialized("load_model()")
        if isinstance(model, Network):
            chosen = checked_parameters(model, parameters) if parameters is not None else None
            if chosen is None:
                chosen = initial_parameters(model, inputs.whole("seed", 0 if seed is None else seed, 0))
            elif seed is not None:
                raise InputError("seed must be left out when parameters are given")
            scale = inputs.number("input_scale", 1.0 if input_scale is None else input_scale)
            loaded: Loaded = LoadedNetwork(model, chosen, scale)
        elif keras_binding.is_model(model):
            given = {"parameters": parameters, "input_scale": input_scale, "seed": seed}
            for name, value in given.items():
                if value is not None:
                    raise InputError(f"{name} must be left out for a Keras model, which has its own, not {value!r}")
            loaded = keras_binding.bind(model, self)
        else:
            raise InputTypeError(f"model must be a Network or a Keras model, not {type(model).__name__}")
        previous = self._loaded
        self._loaded = loaded
        if previous is not None and keras_binding.model_of(previous) is not model:
            keras_binding.unbind(previous, self)

    def _unload(self):
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            keras_binding.unbind(loaded, self)

    def _model(self, call: str) -> Loaded:
        self._check_initialized(f"Device.{call}")
        if self._loaded is None:
            raise StateError(f"Device.{call} needs a model: call load_model() first")
        return self._loaded

    def _network(self, call: str) -> LoadedNetwork:
        loaded = self._model(call)
        if not isinstance(loaded, LoadedNetwork):
            raise StateError(
                f"Device.{call} is for a Network; a Keras model has its own (model.fit, model.weights, ...)"
            )
        return loaded

    def compile(
        self,
        *,
        loss: Loss | str = Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
        optimizer: Optimizer | str = "adam",
        batch_size: int = 32,
    ) -> None:
        """Choose loss, optimizer and batch size of the loaded Network.

        Parameters
        ----------
        loss : Loss or str
        optimizer : Adam, Sgd or str
            "adam" and "sgd" have Keras's defaults. What it remembers is kept when the same one is given again, whatever
            its learning rate.
        batch_size : int

        Raises
        ------
        StateError
            Before ``initialize()`` and ``load_model()``, and for a Keras model, which is compiled with its own method.
        InputError, InputTypeError
            For values that are not allowed; what was compiled before stays.
        ModelError
            For a loss that does not go with the last layer.
        """
        self._network("compile").compile(loss, optimizer, batch_size)

    @property
    def learning_rate(self) -> float:
        """Of the next step of the loaded Network."""
        return self._network("learning_rate").learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float):
        self._network("learning_rate").learning_rate = inputs.number("learning_rate", value)

    @property
    def state(self) -> State:
        """Weights, optimizer memory and step of the loaded Network: save it, and set it again to go on from there.

        A copy: what is done to it changes the device's only when it is set.
        """
        loaded = self._network("state")
        if self._training:
            loaded.keep(self._runner.state)
        return loaded.state().copy()

    @state.setter
    def state(self, value: State):
        loaded = self._network("state")
        loaded.keep(checked_state(loaded.network, value, loaded.slot_names))

    @property
    def parameters(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(weights, bias) of every layer of the loaded Network."""
        return self.state.parameters

    @parameters.setter
    def parameters(self, value: Any):
        state = self.state
        self.state = State(value, state.slots, state.step)

    def plan(self, *, training: bool = True, bytes_in: bool = True) -> Plan:
        """What the compiler makes of the loaded model: where its buffers are, and the cycles it expects, by engine.

        ``print`` shows it. The estimate is computed from the commands and `memory`; nothing is run for it.

        Parameters
        ----------
        training : bool
            A training step, or a batch of ``predict``.
        bytes_in : bool
            For samples of uint8, or binary32.

        Raises
        ------
        StateError
            Before ``initialize()`` and ``load_model()``, and for a training step before the model is compiled.
        ModelError
            If the device cannot run the model; the message names the layer.
        """
        loaded = self._model("plan")
        loaded.refresh()
        if training:
            loaded.check_step()
        return self._prepare(loaded).plan(training=training, bytes_in=bytes_in)

    # Work

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 1,
        initial_epoch: int = 0,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, list[float]]:
        """Train the loaded Network.

        An interrupt (Ctrl-C) waits for the end of the batches that the device is working on, a hundredth of an epoch or
        8 batches; the state is then that after the last of them, and the device can go on. A second one does not wait:
        the state is then that of the beginning of the epoch, and so it is after a fault of the core.

        Parameters
        ----------
        x : array, (n, inputs)
            Or (n, ...) with as many values a sample, images for one. uint8, which reaches the device as bytes, or
            anything else, as binary32.
        y : array
            Labels (n,) for sparse categorical cross-entropy, else targets (n, outputs).
        epochs, initial_epoch : int
            Epochs ``initial_epoch`` .. ``epochs`` - 1 are run.
        validation_data : (x, y)
            Evaluated after each epoch.
        shuffle : bool
            Each epoch has an order of its own that depends on ``seed`` and its number only.
        seed : int
        on_progress : function of a `Progress`
            Called up to 100 times an epoch.

        Returns
        -------
        dict
            A list with a value an epoch for "loss", "accuracy", "val_loss", "val_accuracy", as far as there is one.

        Raises
        ------
        StateError
            Before ``initialize()``, ``load_model()`` and ``compile()``.
        InputError, InputTypeError
            For data of other shapes and types, labels out of range, NaN and infinities; nothing is trained then.
        ModelError
            If the device cannot run the network; the message names the layer.
        """
        loaded = self._network("fit")
        samples = loaded.samples("x", x)
        wanted = loaded.wanted("y", y, len(samples))
        epochs, initial_epoch = inputs.whole("epochs", epochs), inputs.whole("initial_epoch", initial_epoch, 0)
        seed = inputs.whole("seed", seed, 0)
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, tuple) or len(validation_data) != 2:
                raise InputTypeError("validation_data must be a tuple (x, y)")
            val_x = loaded.samples("validation_data x", validation_data[0])
            validation = val_x, loaded.wanted("validation_data y", validation_data[1], len(val_x))
        names = ["loss"] + (["accuracy"] if loaded.loss.labelled else [])
        history: dict[str, list[float]] = {}
        batch = loaded.batch_size
        for epoch in range(initial_epoch, epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(samples)) if shuffle else None
            total = Metrics(0, 0.0, 0)
            runner = self._prepare(loaded)
            held = loaded.state()
            try:
                for part in slices(len(samples), batch):
                    if loaded.state() is not held:  # on_progress has looked at it, or set it
                        self._prepare(loaded)
                        held = loaded.state()
                    rows = slice(part.start, part.stop) if order is None else order[part.start : part.stop]
                    total += runner.train(samples[rows], wanted[rows], loaded.learning_rate)
                    if on_progress is not None:
                        self._training = True
                        on_progress(Progress(epoch, epochs, part.last + 1, -(-len(samples) // batch), total))
                        self._training = False
            finally:
                self._training = False
                if loaded.state() is held:
                    loaded.keep(runner.state)
            results = {"": total}
            if validation is not None:
                results["val_"] = self._measure(loaded, *validation)
            for prefix, metrics in results.items():
                for name in names:
                    history.setdefault(prefix + name, []).append(getattr(metrics, name))
        return history

    def _prepare(self, loaded: Loaded) -> Runner:
        """The runner with ``loaded`` on the device as it is now; the Keras binding goes this way as well."""
        self._check_initialized("a model on the device")
        self._runner.prepare(loaded.setup(self._precision), loaded.state())
        return self._runner

    def _measure(self, loaded: Loaded, x: NDArray, y: NDArray) -> Metrics:
        runner, total = self._prepare(loaded), Metrics(0, 0.0, 0)
        for part in forward_slices(len(x)):
            total += runner.evaluate(x[part.start : part.stop], y[part.start : part.stop])
        return total

    def evaluate(self, x: Any, y: Any) -> Evaluation:
        """Loss of the loaded model, and for a classification accuracy, precision, recall, F1 and the confusion matrix.

        Parameters as those of `fit`, errors as well.
        """
        loaded = self._model("evaluate")
        loaded.refresh(x)
        samples = loaded.samples("x", x)
        wanted = loaded.wanted("y", y, len(samples))
        metrics = self._measure(loaded, samples, wanted)
        scores = None
        if loaded.loss.labelled:
            predicted = self._outputs(loaded, samples).argmax(axis=1)
            scores = Scores(confusion_matrix(wanted, predicted, loaded.network.sizes[-1]))
        return Evaluation(metrics.count, metrics.loss, scores)

    def predict(self, x: Any) -> NDArray[np.float32]:
        """Outputs (n, outputs) of the loaded model for ``x`` as in `fit`; a Network needs no ``compile()`` for it.

        Raises as `fit` does.
        """
        loaded = self._model("predict")
        loaded.refresh(x)
        return self._outputs(loaded, loaded.samples("x", x))

    def _outputs(self, loaded: Loaded, x: NDArray) -> NDArray[np.float32]:
        runner = self._prepare(loaded)
        return np.concatenate([runner.predict(x[part.start : part.stop]) for part in forward_slices(len(x))])

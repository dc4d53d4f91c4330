"""What a host program imports to use a Lepton NPU.

>>> from leptonaicsdk import Dense, Device, Network
>>> with Device(backend="model") as device:
...     device.load_model(Network(784, (Dense(64, "relu"), Dense(10, "softmax"))), input_scale=1 / 255)
...     device.compile(optimizer="adam")
...     history = device.fit(x_train, y_train, epochs=5)
...     print(device.evaluate(x_test, y_test))
"""

from .context import Context
from .core import Core
from .device import Device, Progress
from .driver import CoreFaultError, Fault
from .errors import InputError, InputTypeError, LeptonError, ModelError, StateError
from .memory import BusError, Memory
from .metrics import Evaluation, Scores
from .network import Activation, Adam, Dense, Loss, Network, Sgd
from .turns import ContextKilledError, JobsDone

__all__ = [
    "Activation",
    "Adam",
    "BusError",
    "Context",
    "ContextKilledError",
    "Core",
    "CoreFaultError",
    "Dense",
    "Device",
    "Evaluation",
    "Fault",
    "InputError",
    "InputTypeError",
    "JobsDone",
    "LeptonError",
    "Loss",
    "Memory",
    "ModelError",
    "Network",
    "Progress",
    "Scores",
    "Sgd",
    "StateError",
]

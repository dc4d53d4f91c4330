"""Equations of a dense network and its training in float64: the golden model's first level.

Rows are samples: x is (samples, inputs), W is (inputs, outputs). E is the loss, of which a batch's is the mean over its
samples; the delta of a layer is dE/dz. Back-propagation: D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning
representations by back-propagating errors", Nature 323, 1986. Names and defaults are Keras's, and so are its formulas
where it has several to choose from.

Modules: `layers` forward and backward, `losses`, `optimizers`.
"""

from .layers import (
    ACTIVATIONS,
    Activation,
    Dense,
    Gradient,
    Trace,
    accuracy,
    affine,
    backward,
    backward_from_delta,
    forward,
    relu,
    sigmoid,
    softmax,
)
from .losses import (
    LOSSES,
    Loss,
    cross_entropy,
    cross_entropy_delta,
    loss_and_gradients,
    mean_squared_error,
    mean_squared_error_delta,
    squared_error,
    squared_error_delta,
)
from .optimizers import Adam, Sgd

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "Activation",
    "Adam",
    "Dense",
    "Gradient",
    "Loss",
    "Sgd",
    "Trace",
    "accuracy",
    "affine",
    "backward",
    "backward_from_delta",
    "cross_entropy",
    "cross_entropy_delta",
    "forward",
    "loss_and_gradients",
    "mean_squared_error",
    "mean_squared_error_delta",
    "relu",
    "sigmoid",
    "softmax",
    "squared_error",
    "squared_error_delta",
]

"""Which Keras models become which networks, and what the others are refused with."""

import numpy as np
import pytest
from leptonaicsdk import Dense, ModelError, Network


def described(model):
    from leptonaicsdk.keras_binding.layers import describe

    return describe(model)


def test_sequential(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Rescaling(0.5),
            layers.Flatten(),
            layers.Rescaling(0.5),
            layers.Dense(8, activation="relu"),
            layers.Dense(7, activation="tanh", use_bias=False),
            layers.Dense(6),
            layers.ReLU(),
            layers.Dense(5),
            layers.Activation("sigmoid"),
            layers.Activation("linear"),
            layers.Dense(4),
            layers.Softmax(),
        ]
    )
    found = described(model)
    hidden = (Dense(8, "relu"), Dense(7, "tanh", False), Dense(6, "relu"), Dense(5, "sigmoid"))
    assert found.network == Network(12, (*hidden, Dense(4, "softmax")))
    assert (found.input_shape, found.input_scale) == ((4, 3), 0.25)
    assert [layer.units for layer in found.dense] == [8, 7, 6, 5, 4]


def test_functional(keras):
    layers = keras.layers
    start = keras.Input((6,))
    hidden = layers.Dense(5, activation="tanh")(start)
    model = keras.Model(start, layers.Activation("softmax")(layers.Dense(3)(hidden)))
    assert described(model).network == Network(6, (Dense(5, "tanh"), Dense(3, "softmax")))
    encoder = keras.Model(start, hidden)  # of the same layers
    assert described(encoder).network == Network(6, (Dense(5, "tanh"),))


def _functional(kind):
    def make(keras):
        layers = keras.layers
        start = keras.Input((6,), name="start")
        a = layers.Dense(6, name="a")
        if kind == "branch":
            return keras.Model(start, layers.Add(name="sum")([a(start), layers.Dense(6, name="b")(start)]))
        if kind == "parallel":
            return keras.Model(start, [a(start), layers.Dense(6, name="b")(start)], name="m")
        if kind == "middle":
            middle = a(start)
            return keras.Model([start], [middle, layers.Dense(2, name="b")(middle)][0:1] * 2, name="m")
        return keras.Model(start, a(a(start)))

    return make


def _sequence(*make, shape=(6,)):
    return lambda keras: keras.Sequential([keras.Input(shape), *(f(keras.layers) for f in make)], name="m")


def dense(units=3, **options):
    return lambda layers: layers.Dense(units, **{"name": "d", **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _sequence(dense(), lambda l: l.Dropout(0.5, name="drop")),
            r"layer 'drop' \(Dropout\) is not one the device runs",
        ),
        (
            _sequence(lambda l: l.BatchNormalization(name="bn"), dense()),
            r"layer 'bn' \(BatchNormalization\) is not one",
        ),
        (
            _sequence(lambda l: l.Conv2D(2, 3, name="c"), lambda l: l.Flatten(), dense(), shape=(8, 8, 1)),
            r"layer 'c' \(Conv2D\) is not one the device runs: InputLayer, Flatten",
        ),
        (_sequence(dense(), shape=(4, 6)), r"layer 'd' \(Dense\) has inputs of the shape \(4, 6\); put a Flatten"),
        (_sequence(dense(), shape=(None, 6)), "model 'm' must have an input of fixed shape"),
        (_sequence(dense(activation="gelu")), "layer 'd' .* has the activation 'gelu'; the device has linear, relu"),
        (_sequence(dense(kernel_regularizer="l2")), "layer 'd' .* has a kernel_regularizer"),
        (_sequence(dense(bias_constraint="non_neg")), "layer 'd' .* has a bias_constraint"),
        (_sequence(dense(dtype="float16")), "layer 'd' .* must have the dtype float32, not float16"),
        (
            _sequence(dense(), lambda l: l.Rescaling(2, name="r")),
            "layer 'r' .* must come before the first Dense layer, 'd'",
        ),
        (_sequence(lambda l: l.Rescaling(2, offset=-1, name="r"), dense()), "layer 'r' .* an offset of 0, not -1"),
        (_sequence(lambda l: l.Rescaling([1, 2], name="r"), dense(), shape=(2,)), "layer 'r' .* must have one scale"),
        (_sequence(lambda l: l.ReLU(name="r"), dense()), "layer 'r' .* must follow a Dense layer"),
        (_sequence(dense(), lambda l: l.ReLU(max_value=6, name="r")), "layer 'r' .* must have no max_value"),
        (
            _sequence(dense(activation="tanh"), lambda l: l.ReLU(name="r")),
            "layer 'r' .* follows 'd', which has the activation tanh",
        ),
        (
            _sequence(dense(activation="softmax"), dense(name="e")),
            "layer 'd' .* has a softmax, which the device runs only",
        ),
        (_sequence(lambda l: l.Flatten()), "model 'm' must have a Dense layer, it has none"),
        (_functional("branch"), "layer 'b' .* does not follow the layer before it"),
        (_functional("parallel"), "model 'm' must have one input and one output, not 1 and 2"),
        (_functional("middle"), "model 'm' must have one input and one output, not 1 and 2"),
        (_functional("twice"), "layer 'a' .* is used more than once"),
    ],
)
def test_refused(keras, make, message):
    with pytest.raises(ModelError, match=message):
        described(make(keras))


def test_own_classes(keras):
    class Plain(keras.Sequential):
        """Adds nothing that computes."""

    class Trains(keras.Sequential):
        def train_step(self, *args):
            raise NotImplementedError

    class Calls(keras.Model):
        def call(self, x):
            return x

    assert described(Plain([keras.Input((2,)), keras.layers.Dense(1)])).network == Network(2, (Dense(1),))
    with pytest.raises(ModelError, match=r"model 't': Trains overrides train_step\(\)"):
        described(Trains([keras.Input((2,)), keras.layers.Dense(1)], name="t"))
    calls = Calls(name="c")
    calls(np.zeros((1, 2)))
    with pytest.raises(ModelError, match=r"model 'c': Calls overrides call\(\)"):
        described(calls)


def test_layer_class_of_a_known_name(keras):
    class Dense(keras.layers.Dense):
        """Not Keras's."""

    with pytest.raises(ModelError, match=r"layer 'own' \(Dense\) is not one the device runs"):
        described(keras.Sequential([keras.Input((2,)), Dense(1, name="own")]))

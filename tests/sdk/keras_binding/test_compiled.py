"""Losses, metrics and optimizers of Keras that the device has, and what the others are refused with."""

import pytest
from leptonaicsdk import Adam, Loss, ModelError, Sgd, StateError

SPARSE = "sparse_categorical_crossentropy"


def read(model):
    from leptonaicsdk.keras_binding.compiled import compiled, optimizer_of

    return compiled(model), optimizer_of(model)


@pytest.mark.parametrize(
    ("loss", "expected", "one_hot"),
    [
        (lambda k: SPARSE, Loss.SPARSE_CATEGORICAL_CROSSENTROPY, False),
        (lambda k: k.losses.SparseCategoricalCrossentropy(), Loss.SPARSE_CATEGORICAL_CROSSENTROPY, False),
        (lambda k: k.losses.sparse_categorical_crossentropy, Loss.SPARSE_CATEGORICAL_CROSSENTROPY, False),
        (lambda k: "categorical_crossentropy", Loss.SPARSE_CATEGORICAL_CROSSENTROPY, True),
        (lambda k: "mse", Loss.MEAN_SQUARED_ERROR, False),
        (lambda k: k.losses.MeanSquaredError(), Loss.MEAN_SQUARED_ERROR, False),
    ],
)
def test_losses(keras, build, loss, expected, one_hot):
    model = build()
    model.compile("adam", loss(keras))
    found, _ = read(model)
    assert (found.loss, found.one_hot, found.metrics) == (expected, one_hot, ())


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda o: "adam", Adam()),
        (lambda o: o.Adam(0.5, beta_1=0.8, beta_2=0.9, epsilon=1e-3), Adam(0.001, 0.8, 0.9, 1e-3)),
        (lambda o: "sgd", Sgd()),
        (lambda o: o.SGD(0.5, momentum=0.9, nesterov=True), Sgd(0.01, 0.9, True)),
        (lambda o: o.SGD(o.schedules.ExponentialDecay(0.1, 10, 0.9)), Sgd()),
    ],
)
def test_optimizers(keras, build, optimizer, expected):
    model = build()
    model.compile(optimizer(keras.optimizers), SPARSE)
    assert read(model)[1] == expected


def test_metrics(keras, build):
    model = build()
    metrics = [
        "acc",
        keras.metrics.SparseCategoricalAccuracy(name="share"),
        keras.metrics.SparseTopKCategoricalAccuracy(2),
    ]
    model.compile("adam", SPARSE, metrics=metrics)
    found, _ = read(model)
    assert found.metrics == ("acc", "share", "sparse_top_k_categorical_accuracy")
    assert (found.accuracies, found.others) == (("acc", "share"), ("sparse_top_k_categorical_accuracy",))
    model.compile("adam", "mse", metrics=[["mae"]])
    assert read(model)[0].others == ("mae",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda k: {"loss": "hinge"}, "loss hinge is not one the device has: mse"),
        (lambda k: {"loss": None}, "compiled without a loss"),
        (
            lambda k: {"loss": k.losses.SparseCategoricalCrossentropy(from_logits=True)},
            "SparseCategoricalCrossentropy must have from_logits=False, not True; give the last layer a softmax",
        ),
        (
            lambda k: {"loss": k.losses.CategoricalCrossentropy(label_smoothing=0.1)},
            "must have label_smoothing=0, not 0.1",
        ),
        (lambda k: {"loss": k.losses.MeanSquaredError(reduction="sum")}, "must have reduction='sum_over_batch_size'"),
        (lambda k: {"weighted_metrics": ["accuracy"]}, "weighted_metrics must be None"),
        (lambda k: {"loss_weights": [2.0]}, r"loss_weights must be None, not \[2.0\]"),
        (lambda k: {"optimizer": "rmsprop"}, "optimizer RMSprop is not one the device has: SGD"),
        (lambda k: {"optimizer": "adamw"}, "optimizer AdamW is not one the device has"),
        (lambda k: {"optimizer": k.optimizers.Adam(amsgrad=True)}, "optimizer Adam must have amsgrad=False, not True"),
        (lambda k: {"optimizer": k.optimizers.SGD(clipnorm=1.0)}, "optimizer SGD must have clipnorm=None, not 1.0"),
        (lambda k: {"optimizer": k.optimizers.Adam(epsilon=0.0)}, "optimizer Adam: Adam.epsilon must be above 0"),
        (lambda k: {"optimizer": None}, "model 'm' is compiled without an optimizer"),
    ],
)
def test_refused(keras, options, message):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")], name="m")
    model.compile(**{"optimizer": "adam", "loss": SPARSE, **options(keras)})
    with pytest.raises(ModelError, match=message):
        read(model)


def test_optimizer_of_the_same_name(keras, build):
    @keras.saving.register_keras_serializable("mine")
    class Adam(keras.optimizers.Adam):
        """Not Keras's."""

    model = build()
    model.compile(Adam(), SPARSE)
    with pytest.raises(ModelError, match="optimizer Adam is not one the device has"):
        read(model)


def test_not_compiled(build):
    with pytest.raises(StateError, match=r"is not compiled: call its compile\(\) first"):
        read(build())

"""The program of the document that the project was founded on: Keras trains 784-64-10 on MNIST, on the device.

    python examples/mnist_keras.py                          # on the RTL
    LEPTON_BACKEND=model python examples/mnist_keras.py     # on its bit-exact model, much sooner

Keras needs a backend of its own, here JAX unless KERAS_BACKEND says otherwise; the training does not run on it. Where
MNIST is looked for: leptonaicsdk/datasets.py.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from leptonaicsdk import Device
from leptonaicsdk.datasets import mnist

# The data: images as rows of 784 values 0 .. 1, labels 0 .. 9.
x_train, y_train, x_test, y_test = mnist()
x_train = x_train.reshape(-1, 784).astype("float32") / 255
x_test = x_test.reshape(-1, 784).astype("float32") / 255

# The device.
device = Device()
device.initialize()
device.set_precision(8)

# The model: from here on, Keras as anywhere else.
keras.utils.set_random_seed(1)
model = keras.Sequential(
    [
        keras.layers.Input((784,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, epochs=5)

# Load the trained model and evaluate it.
device.load_model(model)
test_loss, test_acc = model.evaluate(x_test, y_test)
print(f"Test accuracy: {test_acc:.4f}")

device.deinitialize()

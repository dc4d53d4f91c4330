"""How far the core's probabilities may be from the equations': derived from the formats, for `test_inference`.

A tile of largest magnitude in [2^E, 2^(E+1)) has steps s = 2^(E-f), f = 6, 14, 22, and integers up to q = 0x7F, 0x7F7F,
0x7F7F7F. An element other than 0 is off by its rounding, taken as uniform in +-s/2 and independent of the others
(variance s^2 / 12), and by what saturation cuts off, |x| - q s. The bound is `SIGMAS` standard deviations of the scores
that follow. It is not the worst case: 784 roundings that all point the same way would move a score by so much at
precision 8 that no probability could be refused.
"""

import numpy as np
from lepton_npu.spec.commands import Precision

SIGMAS = 6
FRACTION = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}
LIMIT = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}
PASSES = {Precision.P8: 1, Precision.P16: 4, Precision.P32: 6}
ROUND = 2.0**-24
"""Relative error of one binary32 operation."""
FUNCTION = 2.0**-23
"""Relative error of exp and reciprocal: 1 unit in the last place (docs/numerics.md: 0.63 and 0.91)."""


def _variance(x, precision, batch, side):
    """Variance of the quantisation of x, whose rows are quantised in batches; and each element's 2^E."""
    f, q = FRACTION[precision], LIMIT[precision]
    variance, scale = np.empty_like(x), np.empty_like(x)
    for start in range(0, len(x), batch):
        for row in range(start, min(start + batch, len(x)), side):
            rows = slice(row, min(row + side, start + batch))
            for col in range(0, x.shape[1], side):
                tile = rows, slice(col, col + side)
                magnitude = np.abs(x[tile])
                power = 2.0 ** np.floor(np.log2(magnitude.max())) if magnitude.any() else 0.0
                step = power / 2.0**f
                cut = np.maximum(magnitude - q * step, 0)
                variance[tile], scale[tile] = np.where(magnitude > 0, step**2 / 12 + cut**2, 0), power
    return variance, scale


def _summing(x, weights, x_scale, w_scale, precision, side):
    """Greatest error of the accumulators of x W.

    A sum of n binary32 terms is off by n 2^-24 times the sum of their magnitudes; n is K tiles times passes. Limb p of
    a number is at most 2^(E+1-8p), so limbs sum in magnitude to |number| + 2^(E-5). Precision 32 leaves out limb pairs
    (1, 2), (2, 1), (2, 2): 2^(Ex+Ew) (2 * 2^-22 + 2^-30) a product.
    """
    x_size, w_size, bound = np.abs(x), np.abs(weights), 0.0
    if precision != Precision.P8:
        x_size, w_size = x_size + x_scale / 32, w_size + w_scale / 32
    if precision == Precision.P32:
        bound = (x_scale * (x != 0)) @ w_scale * (2 * 2.0**-22 + 2.0**-30)
    return bound + x_size @ w_size * (-(-x.shape[1] // side) * PASSES[precision] * ROUND)


def probabilities(layers, images, precision, batch, side):
    """The equations' probabilities, and the bound of the core's difference from them; both (images, classes).

    With G the derivative of the scores by a layer's z, an error d of its weight (k, n) moves the scores by x_k d G_n,
    and an error e of its input k by e (W G)_k; variances of all sources add. Dead units (z below 0) pass nothing. If
    every score is off by at most dz, the log odds of class i are off by at most dz_i + max dz.
    """
    inputs, scores = [], images / 255
    for layer in layers:
        inputs.append(scores)
        z = scores @ layer.weights.astype(np.float64) + layer.bias
        scores = np.maximum(z, 0) if layer.activation == "relu" else z
    variance = np.zeros_like(z)
    exact = np.zeros_like(z)
    gain = np.broadcast_to(np.eye(z.shape[1]), (len(z), z.shape[1], z.shape[1]))  # (image, output of the layer, score)
    for l in reversed(range(len(layers))):
        x, weights = inputs[l], layers[l].weights.astype(np.float64)
        x_variance, x_scale = _variance(x, precision, batch, side)
        w_variance, w_scale = _variance(weights, precision, len(weights), side)
        # Rounding of 1/255 and of the product, or of the sum with the bias.
        x_variance = x_variance + (2 * ROUND * x) ** 2
        back = np.einsum("kn,inc->ikc", weights, gain)
        variance += np.einsum("in,inc->ic", x**2 @ w_variance, gain**2) + np.einsum("ik,ikc->ic", x_variance, back**2)
        exact += np.einsum("in,inc->ic", _summing(x, weights, x_scale, w_scale, precision, side), np.abs(gain))
        gain = back * (x > 0)[:, :, None]
    dz = SIGMAS * np.sqrt(variance) + exact + 2 * ROUND * np.abs(z)
    spread = z.max(axis=1, keepdims=True) - z
    e = np.exp(-spread)
    p = e / e.sum(axis=1, keepdims=True)
    odds = e / (e.sum(axis=1, keepdims=True) - e)
    # z - max z rounds; then exp, the sum, reciprocal and product.
    worst = (dz + ROUND * spread).max(axis=1, keepdims=True)
    factor = np.exp(dz + ROUND * spread + worst)
    high, low = odds * factor / (1 + odds * factor), odds / factor / (1 + odds / factor)
    arithmetic = p * (3 * FUNCTION + (p.shape[1] + 2) * ROUND)
    return p, np.maximum(high - p, p - low) + arithmetic + 1e-30

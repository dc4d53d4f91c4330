"""Which layers' weights live on the chip, which in memory."""

from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import NpuConfig

from leptonaicsdk.network import Loss, Network

from .layout import Home, Persistent
from .programs import inference_buffers, training_buffers

__all__ = ["choose_homes"]


def choose_homes(
    config: NpuConfig, network: Network, precision: Precision, slots: int, *, loss: Loss, batch: int | None,
    inference_batch: int, least: Home = Home.CHIP,
) -> Persistent:  # fmt: skip
    """As much on the chip as fits beside the buffers: first the largest layers' state leaves, then their tiles.

    Parameters
    ----------
    slots : int
        States of the optimizer.
    batch : int or None
        Samples of a training step; None if there is no training.
    inference_batch : int
        Samples of a batch of inference.
    least : Home
        Where weights may live at best.

    Raises
    ------
    ValueError
        If not even that fits; the message names the layer, what it needs and what there is.
    """
    layers = len(network.layers)
    largest = sorted(range(layers), key=lambda l: -network.sizes[l] * network.sizes[l + 1])
    refusal: ValueError | None = None
    for home, rest in ((Home.TILES, Home.CHIP), (Home.MEMORY, Home.TILES)):
        for streamed in range(layers + 1):
            homes = tuple(
                max(home if l in largest[:streamed] else rest, least, key=lambda kind: kind.value)
                for l in range(layers)
            )
            try:
                persistent = Persistent(config, network, precision, slots, homes)
                for bytes_in in (True, False):
                    if batch is not None:
                        training_buffers(persistent, batch, loss, bytes_in=bytes_in)
                    inference_buffers(persistent, inference_batch, loss, bytes_in=bytes_in)
            except ValueError as error:
                refusal = error
                continue
            return persistent
    raise ValueError(f"the network cannot run on this core, even with all weights streamed: {refusal}")

"""How a dense network is cut to fit a configuration: images in a batch, chunks, resident layers, buffers."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import ACC_SPACE, NpuConfig

from .schedule import Region

__all__ = ["Layout", "Plan", "choose_plan"]

LOCAL, TILES = "local", "tiles"
_BATCHES = (64, 32, 16, 8, 4, 2, 1)
_CHUNKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_PASSES = {Precision.P8: 1, Precision.P16: 4, Precision.P32: 6}


@dataclass(frozen=True)
class Plan:
    """One way to run a network.

    Attributes
    ----------
    sizes : tuple of int
        Inputs of layer 0, then outputs of every layer.
    batch : int
        Images that go through the layers together.
    chunks : int
        Parts into which the contraction of layer 0, and of every streamed layer, is cut.
    streamed : tuple of bool
        Layers whose weights are loaded and quantised again for every batch; the others' tiles stay in the tile memory.
    pipelined : bool
        Layers of consecutive batches are interleaved: layer 0 of a batch runs while the one before is activated. Takes
        two sets of accumulators for every layer but the last.
    """

    config: NpuConfig
    sizes: tuple[int, ...]
    precision: Precision
    batch: int
    chunks: int
    streamed: tuple[bool, ...]
    pipelined: bool

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.sizes) - 1

    @property
    def row_tiles(self) -> int:
        """Tiles along a batch."""
        return -(-self.batch // self.config.side)

    def k_tiles(self, l: int) -> int:
        """Tiles along the inputs of layer l."""
        return -(-self.sizes[l] // self.config.side)

    def n_tiles(self, l: int) -> int:
        """Tiles along the outputs of layer l, and local rows of one image's outputs."""
        return -(-self.sizes[l + 1] // self.config.side)

    def chunk_tiles(self, l: int) -> int:
        """Tiles along the inputs of a chunk of layer l (the last chunk may have fewer)."""
        if self.chunks == 1 or (l and not self.streamed[l]):
            return self.k_tiles(l)
        # A chunk of layer 0's bytes starts at a bus word.
        align = 1 if l else max(1, self.config.bus_bytes // self.config.side)
        return min(self.k_tiles(l), -(-self.k_tiles(l) // self.chunks // align) * align)

    def chunk_spans(self, l: int) -> list[tuple[int, int]]:
        """First K tile and number of K tiles of every chunk of layer l."""
        step, total = self.chunk_tiles(l), self.k_tiles(l)
        return [(k, min(step, total - k)) for k in range(0, total, step)]

    def array_cycles(self, l: int) -> int:
        """Array cycles of layer l for a batch."""
        return _PASSES[self.precision] * self.k_tiles(l) * self.n_tiles(l) * max(self.batch, self.config.side)

    def _weight_cycles(self, streamed: bool) -> int:
        """Bus cycles to load the weights of the layers that are (not) streamed."""
        words = sum(self.sizes[l] * self.sizes[l + 1] for l in range(self.layers) if self.streamed[l] == streamed)
        return 4 * words // self.config.bus_bytes

    def cycles(self, images: int) -> int:
        """Estimate for ``images`` images, to choose between plans: engines at full rate, no latencies."""
        config, batch, last = self.config, self.batch, self.layers - 1
        load = batch * self.sizes[0] // config.bus_bytes + self._weight_cycles(streamed=True)
        streamed_rows = sum(self.sizes[l] * self.n_tiles(l) for l in range(self.layers) if self.streamed[l])
        input_rows = batch * sum(self.k_tiles(l) for l in range(self.layers))
        softmax_rows = batch * (2 * config.side_bits + 2 + 4 * self.n_tiles(last))
        vector = (input_rows + softmax_rows) * config.side // config.lanes
        quant = 2 * (input_rows + streamed_rows)
        array = [self.array_cycles(l) for l in range(self.layers)]
        if self.pipelined:
            steady = max(load, vector, quant, sum(array))
        else:
            steady = max(load, vector, quant, array[0]) + sum(array[1:]) + softmax_rows * config.side // config.lanes
        first = load + vector + quant + sum(array)
        return self._weight_cycles(streamed=False) + first + (-(-images // batch) - 1) * steady


class _Space:
    """Hands out regions of one memory, and remembers for whom."""

    def __init__(self, plan: Plan, space: str, memory: str, unit: str, start: int, limit: int):
        self.plan, self.space, self.memory, self.unit = plan, space, memory, unit
        self.start, self.limit, self.used = start, limit, 0
        self._parts: list[tuple[int, int, str]] = []

    def take(self, size: int, l: int, what: str) -> Region:
        """The next ``size`` units, for ``what`` of layer l."""
        region = Region(self.space, self.start + self.used, size)
        self.used += size
        self._parts.append((size, l, what))
        return region

    def check(self):
        """ValueError if more was taken than there is, naming the layer that took most."""
        if self.used > self.limit:
            size, l, what = max(self._parts, key=lambda part: part[0])
            inputs, outputs = self.plan.sizes[l : l + 2]
            raise ValueError(
                f"layer {l} ({inputs} x {outputs}) does not fit: {what} takes {size} {self.unit}, with all else "
                f"{self.used}, and the {self.memory} has {self.limit}"
            )


@dataclass
class Layout:
    """Where a plan's buffers are. Pairs are used in turn.

    Attributes
    ----------
    biases : Region
        Rows of all layers' biases, one layer after another.
    pixels : list of Region
        A chunk of a batch as bytes; a pair.
    inputs : Region
        The chunk in binary32.
    hidden : list of Region
        Activations of every layer but the last.
    scores, scratch : Region
        Outputs of the last layer; one row for each image.
    staging : list of Region
        Weights in binary32 on their way to tiles; a pair.
    sums : list of list of Region
        Accumulators of every layer.
    weights : list of list of Region
        Tiles of every layer's weights: one region, or a pair of chunks for a streamed layer.
    activations : list of list of Region
        Tiles of every layer's inputs: a pair for layer 0.
    """

    plan: Plan
    biases: Region = field(init=False)
    pixels: list[Region] = field(init=False)
    inputs: Region = field(init=False)
    hidden: list[Region] = field(init=False)
    scores: Region = field(init=False)
    scratch: Region = field(init=False)
    staging: list[Region] = field(init=False)
    sums: list[list[Region]] = field(init=False)
    weights: list[list[Region]] = field(init=False)
    activations: list[list[Region]] = field(init=False)

    def __post_init__(self):
        self._accumulators()
        self._tiles()
        self._vector_memory()

    def _accumulators(self):
        plan, half = self.plan, self.plan.config.acc_rows // 2
        last = plan.layers - 1
        # The two sets of a pipelined plan are in the memory's two halves, which are read and written at the same time.
        size = half if plan.pipelined else 2 * half
        what = "half of the accumulator memory" if plan.pipelined else "accumulator memory"
        spaces = [_Space(plan, LOCAL, what, "rows", ACC_SPACE + start, size) for start in (0, half)]
        self.sums = [
            [
                space.take(plan.batch * plan.n_tiles(l), l, f"a batch of {plan.batch} sums")
                for space in spaces[: 2 if plan.pipelined and l < last else 1]
            ]
            for l in range(plan.layers)
        ]
        spaces[0].check()

    def _tiles(self):
        plan, limbs = self.plan, self.plan.precision.limbs
        space = _Space(plan, TILES, "tile memory", "tiles", 0, plan.config.tiles)
        self.weights, self.activations = [], []
        for l in range(plan.layers):
            chunk, copies = plan.chunk_tiles(l), 1 + plan.streamed[l]
            what = "a chunk of weights" if plan.streamed[l] else "weights"
            size = limbs * (chunk if plan.streamed[l] else plan.k_tiles(l)) * plan.n_tiles(l)
            self.weights.append([space.take(size, l, what) for _ in range(copies)])
            size = limbs * plan.row_tiles * (plan.k_tiles(l) if l else chunk)
            self.activations.append([space.take(size, l, f"a batch of {plan.batch}") for _ in range(1 if l else 2)])
        space.check()

    def _vector_memory(self):
        plan, config = self.plan, self.plan.config
        last = plan.layers - 1
        space = _Space(plan, LOCAL, "vector memory", "rows", 0, config.vmem_rows)
        rows = [plan.n_tiles(l) for l in range(plan.layers)]
        self.biases = space.take(sum(rows), rows.index(max(rows)), "biases")
        chunk = plan.chunk_tiles(0)
        self.pixels = [space.take(plan.batch * -(-chunk // 4), 0, "a batch of bytes") for _ in range(2)]
        self.inputs = space.take(plan.batch * chunk, 0, f"a batch of {plan.batch} inputs")
        self.hidden = [space.take(plan.batch * rows[l], l, f"a batch of {plan.batch} activations") for l in range(last)]
        self.scores = space.take(plan.batch * rows[last], last, f"a batch of {plan.batch} scores")
        self.scratch = space.take(plan.batch, last, "scratch")
        # The least that the weights of a layer must have; then all that is left.
        least = [config.side * rows[l] * (plan.chunk_tiles(l) if plan.streamed[l] else 1) for l in range(plan.layers)]
        size = max(max(least), (config.vmem_rows - space.used) // 2)
        self.staging = [space.take(size, least.index(max(least)), "a chunk of weights in binary32") for _ in range(2)]
        space.check()


def _candidates(config: NpuConfig, sizes: tuple[int, ...], precision: Precision, images: int) -> Iterator[Plan]:
    """Plans from the one that needs most memory to the one that needs least."""
    layers = len(sizes) - 1
    largest_first = sorted(range(layers), key=lambda l: -sizes[l] * sizes[l + 1])
    inputs = -(-sizes[0] // config.side)
    for count in range(layers + 1):
        streamed = tuple(l in largest_first[:count] for l in range(layers))
        for pipelined in (True, False):
            for batch in sorted({min(batch, images) for batch in _BATCHES}, reverse=True):
                for chunks in (*(c for c in _CHUNKS if c < inputs), inputs):
                    yield Plan(config, sizes, precision, batch, chunks, streamed, pipelined)


def choose_plan(config: NpuConfig, sizes: tuple[int, ...], precision: Precision, images: int) -> Layout:
    """The plan that is estimated to take the fewest cycles for ``images`` images, with its buffers.

    Raises
    ------
    ValueError
        If no plan fits; the message names the layer and the memory that even the smallest plan overflows.
    """
    best: tuple[int, Layout] | None = None
    refusal: ValueError | None = None
    tried = None
    for plan in _candidates(config, sizes, precision, images):
        # With fewer chunks everything else equal is better: only the first count of chunks that fits is of use.
        group = (plan.streamed, plan.pipelined, plan.batch)
        if group == tried:
            continue
        try:
            layout = Layout(plan)
        except ValueError as error:
            refusal = error
            continue
        tried = group
        if best is None or plan.cycles(images) < best[0]:
            best = plan.cycles(images), layout
    if best is None:
        assert refusal is not None
        raise refusal
    return best[1]

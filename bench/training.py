"""Cycles of training and inference of the headline network, whole programs on the core, by its own counters."""

import functools
from dataclasses import dataclass, replace

import numpy as np
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from lepton_sim.core import core_library
from lepton_sim.data import digits
from lepton_sim.harness import Harness
from lepton_sim.mnist import NETWORK, headline_session
from leptonaicsdk.backend import RtlBackend
from leptonaicsdk.driver import Driver
from leptonaicsdk.memory import Memory
from leptonaicsdk.network import Adam, Optimizer
from leptonaicsdk.program import Program
from leptonaicsdk.schedule import Region, Schedule
from leptonaicsdk.session import Session
from leptonaicsdk.training.emitter import Emitter, View
from leptonaicsdk.training.update import update

__all__ = ["StepCycles", "adam_cycles", "batch_inference", "single_image", "training_step_cycles"]

LATENCY = 30


@dataclass(frozen=True)
class StepCycles:
    """Cycles of one step, of them those in which each engine was busy, and what the printed plan had estimated."""

    cycles: float
    busy: dict[str, float]
    planned: float | None = None


def _rtl_session(config: NpuConfig, batch: int, optimizer: Optimizer, page_bytes: int | None = None) -> Session:
    """784-64-10 on the RTL, behind a memory of 30 cycles' latency that never stalls."""
    backend = RtlBackend(config, 1 << 25, timing=Memory(latency=LATENCY), page_bytes=page_bytes)
    return headline_session(backend, optimizer=optimizer, batch=batch)


def _difference(session: Session, few: int, many: int, run) -> StepCycles:
    """Cycles of a step in the steady state: what ``many`` steps take more than ``few``."""
    totals = []
    for steps in (few, many):
        before = session.counters
        run(steps)
        after = session.counters
        totals.append({name: after[name] - before[name] for name in after})
    each = {name: (totals[1][name] - totals[0][name]) / (many - few) for name in totals[0]}
    busy = {name.removesuffix("_BUSY"): value for name, value in each.items() if name.endswith("_BUSY")}
    return StepCycles(each["CYCLES"], busy)


@functools.cache
def training_step_cycles(
    config: NpuConfig, batch: int, optimizer: Optimizer, page_bytes: int | None = None
) -> StepCycles:
    """One training step, everything included: samples, forward, loss, gradients, update, requantising, results.

    Sixteen more steps are measured, of which the sums of the losses (8 bytes a sample, added up on the core when a call
    ends) are a part as well.
    """
    session = _rtl_session(config, batch, optimizer, page_bytes)
    data = digits()
    images = np.resize(data.train_images, (20 * batch, NETWORK.inputs))
    labels = np.resize(data.train_labels, 20 * batch)
    done = _difference(session, 4, 20, lambda steps: session.train(images[: steps * batch], labels[: steps * batch]))
    session.backend.close()
    return replace(done, planned=session.plan(training=True).cycles)


def batch_inference(config: NpuConfig, batch: int = 128) -> StepCycles:
    """Forward pass and store of the probabilities, an image, in batches one after another."""
    session = _rtl_session(config, batch, Adam())
    images = np.resize(digits().train_images, (20 * batch, NETWORK.inputs))
    done = _difference(session, 4, 20, lambda steps: session.predict(images[: steps * batch], batch=batch))
    session.backend.close()
    return StepCycles(done.cycles / batch, {name: value / batch for name, value in done.busy.items()})


def single_image(config: NpuConfig) -> float:
    """One image from memory to its probabilities in memory, weights on the chip: from the doorbell to the interrupt."""
    session = _rtl_session(config, 32, Adam())
    image = digits().test_images[:1]
    session.predict(image)
    backend = session.backend
    assert isinstance(backend, RtlBackend)
    session.predict(image)
    cycles = backend.last_cycles
    backend.close()
    return cycles


def adam_cycles(config: NpuConfig, rows: int = 832) -> float:
    """Cycles for each 16 parameters of Adam's commands on a chunk of ``rows`` local rows, with nothing else running."""
    schedule = Schedule(config)
    emitter = Emitter(config, schedule)
    slots = [Region("vector memory", number * rows, rows) for number in range(3)]

    work, rate = Region("vector memory", 3 * rows, rows), Region("vector memory", 4 * rows, 1)
    gradient = View((Region("sums", ACC_SPACE, rows),), ACC_SPACE)
    update(emitter, Adam(), slots, rows, gradient, work, rate)
    program: Program = schedule.program
    program.irq(1)
    with Harness(core_library(config), 1 << 16) as harness:
        records = program.records()
        harness.memory[: len(records)] = np.frombuffer(records, np.uint8)
        driver = Driver(harness)
        driver.start(0, 4)
        driver.clear_counters()
        driver.doorbell(len(program))
        assert harness.run(1_000_000)
        driver.check()
        busy = driver.counters()["VECTOR_BUSY"]
    return busy / rows * 16 / config.side

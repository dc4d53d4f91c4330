"""A job in an address space of its own: the same program and data, at frames that have nothing to do with addresses."""

from dataclasses import replace

import numpy as np
from lepton_npu.spec.page_table import PAGE_SIZES, PageTable
from lepton_npu.spec.translation import PAGE_BYTES

from .job import Job

__all__ = ["translated"]

PHYSICAL_BASE = 0x0020_0000
"""Byte address of the memory: not that of any job, so that an address that was not translated finds nothing."""


def translated(
    job: Job, rng: np.random.Generator, *, page_bytes: int = PAGE_BYTES, physical_base: int = PHYSICAL_BASE
) -> Job:
    """``job`` behind a page table.

    Parameters
    ----------
    job : Job
        Its addresses become virtual.
    rng : numpy.random.Generator
        Chooses the frames of 4 KiB pages; tables are among them.
    page_bytes : int
        4096; or larger, and then frames are in the order of their addresses, and the memory is as large as it takes.
    physical_base : int
        Byte address of the memory, or the next multiple of a page.

    Returns
    -------
    Job
        With ``root`` set. Its memory is the physical one, tables included, which stay as they are.
    """
    if page_bytes not in PAGE_SIZES:
        raise ValueError(f"page_bytes must be one of {', '.join(map(str, PAGE_SIZES))}, not {page_bytes}")
    first = job.base // page_bytes * page_bytes
    end = -(-(job.base + job.memory.size) // page_bytes) * page_bytes
    frames_each = page_bytes // PAGE_BYTES
    pages = (end - first) // page_bytes
    tables = 2 * len(PAGE_SIZES) + pages // 512 + 1  # more than the table can have
    base = -(-physical_base // page_bytes) * page_bytes
    number = base // PAGE_BYTES  # of the first frame
    if page_bytes == PAGE_BYTES:
        order = number + rng.permutation(pages + tables)
    else:
        order = number + np.concatenate([np.arange(pages) * frames_each, pages * frames_each + np.arange(tables)])
    table = PageTable(int(frame) for frame in order[pages:])
    frames = [int(frame) for frame in order[:pages]]
    for page, frame in enumerate(frames):
        table.map_page(first + page * page_bytes, frame * PAGE_BYTES, size=page_bytes)
    size = (pages * frames_each + tables) * PAGE_BYTES

    def placed(memory: np.ndarray) -> np.ndarray:
        padded = np.zeros(pages * page_bytes, np.uint8)
        padded[job.base - first : job.base - first + memory.size] = memory
        result = np.zeros(size, np.uint8)
        for page, frame in enumerate(frames):
            at = frame * PAGE_BYTES - base
            result[at : at + page_bytes] = padded[page * page_bytes : (page + 1) * page_bytes]
        table.write(result.data, base)
        return result

    return replace(
        job,
        memory=placed(job.memory),
        expected=placed(job.expected),
        base=base,
        root=table.root,
        name=f"{job.name}, translated",
    )

"""Work on the frames of a batch, in parts side by side: decoders leave Python's lock to others."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, wait

from fogx.threads import pool, processors, submit

_FEWEST = 4
"""Frames of a part: fewer are not worth a thread."""

_MOST = 4
"""Parts of a batch: with more threads each waits for Python's lock longer than it decodes; see `design_doc/0010-training.md`."""


def in_parts(work: Callable[[slice], None], count: int) -> None:
    """Do all of `count` frames: in this thread, and in up to three others where this process is no worker of a loader.

    Workers share the processors already, and their number is what the user chose.

    Args:
        work: Does some of the frames, which touch nothing of the others'; called from several threads.
        count: How many there are.
    """
    parts = 1 if multiprocessing.parent_process() else max(1, min(processors(), _MOST, count // _FEWEST))
    bounds = [count * part // parts for part in range(parts + 1)]
    mine, *others = itertools.starmap(slice, itertools.pairwise(bounds))
    pending: list[Future[None]] = []
    try:
        for part in others:
            pending.append(submit(pool("fogx decoder"), functools.partial(work, part)))
        work(mine)
    finally:
        wait(pending)
    for done in pending:
        done.result()

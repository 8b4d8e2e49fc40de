"""Random choices of items. An index that carries `seed` and `epoch` (see `order.py`) always draws the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

_MASK = (1 << 64) - 1


def uniform(items: Sequence[int], salt: str) -> np.ndarray:
    """Return a number for each item, evenly spread over [0, 1).

    Args:
        items: Positions of items; those with `seed` and `epoch` give a pure function of these, of the item and of `salt`. For plain
            ones Python's own generator draws, which PyTorch seeds in each worker.
        salt: What is drawn: two draws for one item have nothing to do with each other.
    """
    return np.array([_one(item, salt) for item in items], np.float64)


def _one(item: int, salt: str) -> float:
    seed, epoch = getattr(item, "seed", None), getattr(item, "epoch", None)
    if seed is None or epoch is None:
        return random.random()
    state = int.from_bytes(salt.encode()[:8], "little")
    for number in (int(seed), int(epoch), int(item)):
        state = _mixed((state ^ number) & _MASK)
    return (state >> 11) / (1 << 53)


def _mixed(value: int) -> int:
    """Return the next number of splitmix64."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)

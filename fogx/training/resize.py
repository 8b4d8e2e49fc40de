"""Pictures in another size, bilinear with antialias, in whole numbers: every machine gets the same pixels.

The filter is the one of Pillow and of PyTorch: a triangle as wide as the pixels of the result, but no narrower than those of the original,
over centres of pixels, first along rows, then along columns. As in PyTorch (`UpSampleKernel.cpp`, `antialias=True` of uint8) weights are
whole numbers of 15 bits at most, and each pass rounds to uint8. Results differ from Pillow's, whose weights have 22 bits, by 1 at most.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_WEIGHT_LIMIT, _MOST_BITS = 1 << 15, 22
_ROWS = 16
"""So many rows of a result are made together, which stay in a processor's own memory."""


def smoothed(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture in another size.

    PyTorch does it where the program has loaded it and the processor has AVX2: for 640×480 to 224×224 in 0.3 ms instead of 4.

    Args:
        pixels: uint8 (H, W, C), H and W from 1.
        size: Height and width wanted, from 1.

    Returns:
        uint8 (*size, C), contiguous.
    """
    torch = sys.modules.get("torch")
    return _way(pixels.shape, size, torch)(np.ascontiguousarray(pixels), size)


@functools.lru_cache(maxsize=256)
def _way(shape: tuple[int, ...], size: tuple[int, int], torch: Any) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
    """Return what resizes pictures of a shape: PyTorch, once it gave what it should of one picture.

    Its kernel for AVX works in the thread that calls it. The one for other processors would start threads of its own beside each of our
    decoders', and a process that was forked later would hang in it.
    """
    if torch is None:
        return by_definition
    sample = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    by_torch = functools.partial(_by_torch, torch)
    try:
        is_fit = torch.backends.cpu.get_cpu_capability().startswith("AVX")
        return by_torch if is_fit and np.array_equal(by_torch(sample, size), by_definition(sample, size)) else by_definition
    except (AttributeError, RuntimeError, TypeError):  # it is just being imported, or too old
        return by_definition


def _by_torch(torch: Any, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    writable = pixels if pixels.flags.writeable else pixels.copy()  # PyTorch warns of others
    batch = torch.from_numpy(writable).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(batch, size, mode="bilinear", antialias=True)
    found: np.ndarray = resized[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(found)


def by_definition(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return what `smoothed` returns, by NumPy alone.

    Args:
        pixels: uint8 (H, W, C).
        size: Height and width wanted.
    """
    if pixels.shape[1] != size[1]:
        pixels = _along_first(pixels.swapaxes(0, 1), size[1]).swapaxes(0, 1)
    if pixels.shape[0] != size[0]:
        pixels = _along_first(pixels, size[0])
    return np.ascontiguousarray(pixels)


def _along_first(pixels: np.ndarray, count: int) -> np.ndarray:
    """Return pixels (N, M, C) with another length of the first axis."""
    taken, weights, bits = _weights(len(pixels), count)
    lines = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    result = np.empty((count, lines.shape[1]), np.uint8)
    for first in range(0, count, _ROWS):
        some = slice(first, first + _ROWS)
        total = np.full(result[some].shape, 1 << bits >> 1, np.int32)
        for at, weight in zip(taken[some].T, weights[some].T, strict=True):
            total += lines[at] * weight[:, None]
        result[some] = total >> bits
    return result.reshape(count, *pixels.shape[1:])


@functools.lru_cache(maxsize=64)
def _weights(before: int, after: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the `(after, K)` positions that each pixel is made of, their int32 weights, and the bits that these have behind the point."""
    scale = before / after
    reach = max(scale, 1.0)
    centres = scale * (np.arange(after) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((centres + reach + 0.5).astype(np.int64), before)
    taken = first[:, None] + np.arange((stop - first).max())
    shares = np.maximum(0.0, 1.0 - np.abs((taken - centres[:, None] + 0.5) * min(1 / scale, 1.0)))
    shares[taken >= stop[:, None]] = 0.0
    shares /= shares.sum(1, keepdims=True)
    most = float(shares.max())
    bits = next(bits for bits in range(_MOST_BITS + 1) if bits == _MOST_BITS or int(0.5 + most * (2 << bits)) >= _WEIGHT_LIMIT)
    return np.minimum(taken, before - 1), (shares * (1 << bits) + 0.5).astype(np.int32), bits

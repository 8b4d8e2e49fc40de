"""Resizing: the same pixels with PyTorch and without, and Pillow's to within rounding."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fogx.training import resize
from fogx.training.resize import by_definition, smoothed

SIDES = st.integers(1, 120)


def picture(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@given(height=SIDES, width=SIDES, channels=st.integers(1, 4), size=st.tuples(SIDES, SIDES), seed=st.integers(0, 9))
def test_pytorch_gives_the_same(height, width, channels, size, seed):
    pixels = picture(height, width, channels, seed)
    found = resize._by_torch(torch, pixels, size)
    assert np.array_equal(found, by_definition(pixels, size))
    assert found.flags.c_contiguous


@given(height=SIDES, width=SIDES, size=st.tuples(SIDES, SIDES))
def test_pillow_gives_nearly_the_same(height, width, size):
    pixels = picture(height, width, 3)
    wanted = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(by_definition(pixels, size).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("before", "size"), [((480, 640), (224, 224)), ((256, 256), (224, 224)), ((180, 320), (256, 256)), ((1080, 1920), (84, 84))]
)
def test_usual_sizes(before, size):
    pixels = picture(*before, 3)
    assert np.array_equal(smoothed(pixels, size), by_definition(pixels, size))
    has_avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    assert (resize._way(pixels.shape, size, torch) is not by_definition) == has_avx


@given(height=SIDES, width=SIDES, size=st.tuples(SIDES, SIDES), value=st.integers(0, 255))
def test_what_is_of_one_colour_stays_so(height, width, size, value):
    assert (by_definition(np.full((height, width, 1), value, np.uint8), size) == value).all()


def test_arrays_that_are_read_only_or_views_are_taken():
    pixels = picture(20, 40, 3)
    wanted = by_definition(pixels, (7, 9))
    frozen = pixels.copy()
    frozen.flags.writeable = False
    assert np.array_equal(smoothed(frozen, (7, 9)), wanted)
    assert np.array_equal(smoothed(np.repeat(pixels, 2, axis=1)[:, ::2], (7, 9)), wanted)
    assert np.array_equal(smoothed(pixels[:, ::-1], (7, 9)), by_definition(pixels[:, ::-1].copy(), (7, 9)))


def test_a_pytorch_that_differs_or_cannot_is_not_used(monkeypatch):
    pixels = picture(30, 30, 3)
    for wrong in (lambda *a: np.zeros((9, 9, 3), np.uint8), lambda *a: 1 + None):
        monkeypatch.setattr(resize, "_by_torch", wrong)
        resize._way.cache_clear()
        assert np.array_equal(smoothed(pixels, (9, 9)), by_definition(pixels, (9, 9)))
    resize._way.cache_clear()


def test_without_pytorch_it_is_not_loaded_and_pixels_are_the_same():
    code = """
import sys, zlib
import numpy as np
from fogx.training.images import resized
pixels = (np.arange(48 * 64 * 3) * 7919 % 251).astype(np.uint8).reshape(48, 64, 3)
small = resized(pixels, (22, 24), smooth=True)
assert "torch" not in sys.modules
print(zlib.crc32(small.tobytes()))
import torch
assert np.array_equal(resized(pixels, (22, 24), smooth=True), small)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # These very pixels, on every machine and with every version.
    assert run.stdout.split() == ["2354824196"]


def test_a_process_that_is_forked_after_a_resize_can_resize_on_a_processor_without_avx():
    code = """
import os, signal
import numpy as np
import torch
from fogx.training.resize import by_definition, smoothed
assert not torch.backends.cpu.get_cpu_capability().startswith("AVX")
torch.set_num_threads(2)
pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
before = len(os.listdir("/proc/self/task"))
wanted = smoothed(pixels, (224, 224))
assert len(os.listdir("/proc/self/task")) == before
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if np.array_equal(smoothed(pixels, (224, 224)), wanted) else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(wanted, by_definition(pixels, (224, 224)))
"""
    without = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=without, check=True)

"""The contract of codecs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from fogx.errors import CorruptDataError, missing_extra
from fogx.feature import Feature
from fogx.protocols import Codec
from fogx.settings import config

try:
    from hypothesis import given
    from hypothesis import strategies as st
except ImportError:
    raise missing_extra("hypothesis", "dev", "fogx.testing.codecs") from None


class CodecContract:
    """Set `codec`, `samples`, and where it is lossy `tolerance`.

    `samples` are arrays that it holds, small (16×16, not 0-d) since each is cut at every byte, and one of each dtype and number of
    dimensions. `tolerance` is the largest absolute error of a value; 0 demands the same bits.
    """

    codec: Codec
    samples: ClassVar[Sequence[np.ndarray]]
    tolerance: ClassVar[float] = 0

    def decode(self, data: bytes, feature: Feature) -> np.ndarray | None:
        """Return an array of what the feature declares, or `None` for corrupt data; nothing else may happen."""
        try:
            found = self.codec.decode(data, feature)
        except CorruptDataError:
            return None
        assert isinstance(found, np.ndarray)
        assert (found.dtype.name, found.shape) == (feature.dtype, feature.shape)
        return found

    def test_values_come_back(self) -> None:
        assert isinstance(self.codec, Codec)
        for sample in self.samples:
            value = np.asfortranarray(sample)
            data = self.codec.encode(value)
            assert type(data) is bytes
            assert np.array_equal(value, sample), "encode() changes its argument"
            found = self.decode(data, _feature(sample))
            assert found is not None, "what was encoded is called corrupt"
            if self.tolerance:
                assert np.abs(found.astype(np.float64) - sample.astype(np.float64)).max() <= self.tolerance
            else:
                assert found.tobytes() == sample.tobytes()

    def test_another_size_is_refused_before_decoding(self) -> None:
        for sample in self.samples:
            large = np.tile(sample, (1 + (1 << 18) // sample.nbytes, *(1,) * (sample.ndim - 1)))
            feature, data = replace(_feature(large), shape=(len(large) + 1, *large.shape[1:])), self.codec.encode(large)
            # First untraced: what a first refusal imports is not its memory.
            assert self.decode(data, feature) is None, f"{feature.describe()} fits data of {large.shape}"
            tracemalloc.start()
            try:
                self.decode(data, feature)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < large.nbytes, f"{peak} bytes were taken to refuse a value of {large.nbytes}"

    def test_more_than_max_pixels_is_refused(self) -> None:
        encoded, before = [(self.codec.encode(sample), _feature(sample)) for sample in self.samples], config().max_pixels
        config(max_pixels=1)
        try:
            assert [feature for data, feature in encoded if self.decode(data, feature) is not None] == []
        finally:
            config(max_pixels=before)

    def test_data_cut_anywhere_is_corrupt(self) -> None:
        for data, feature in [(self.codec.encode(sample), _feature(sample)) for sample in self.samples]:
            whole = [length for length in range(len(data)) if self.decode(data[:length], feature) is not None]
            assert whole == [], f"{feature.describe()} of {len(data)} bytes is decoded from fewer"

    def test_garbage_is_corrupt_or_fits(self) -> None:
        encoded = [(self.codec.encode(sample), _feature(sample)) for sample in self.samples]
        changes = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8)

        # Functions of this call: hypothesis wants each of its tests to run on one object, and subclasses share methods.
        @given(st.binary(max_size=200), st.sampled_from(encoded))
        def any_bytes(data: bytes, good: tuple[bytes, Feature]) -> None:
            self.decode(data, good[1])

        @given(changes, st.sampled_from(encoded))
        def damaged(changes: list[tuple[int, int]], good: tuple[bytes, Feature]) -> None:
            data = bytearray(good[0])
            for place, byte in changes:
                data[place % len(data)] = byte
            self.decode(bytes(data), good[1])

        any_bytes()
        damaged()


def _feature(value: np.ndarray) -> Feature:
    return Feature(value.dtype.name, value.shape)

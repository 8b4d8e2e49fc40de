"""Frames in another size, kept beside those that they are made from: their names, and which of them an index row has.

The name of the front camera in 224×224 is `front//224x224q95`: the quality of JPEG comes last, and where the codec loses nothing there is
none. No feature can have such a name, since its parts are separated by single slashes.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from fogx.feature import Feature, Schema
from fogx.storage.tables.index import IndexRow
from fogx.storage.tables.places import FramesPlace

_NAME = re.compile(r"(.+)//([1-9]\d{0,5})x([1-9]\d{0,5})(?:q\d{1,3})?")


def derived_name(feature: str, size: tuple[int, int], quality: int | None) -> str:
    """Return the name of a feature's frames in another size.

    Args:
        feature: The feature.
        size: Height and width.
        quality: Of JPEG; `None` where the codec loses nothing.
    """
    return f"{feature}//{size[0]}x{size[1]}" + ("" if quality is None else f"q{quality}")


def derived_places(row: IndexRow, feature: str, size: tuple[int, int]) -> list[FramesPlace]:
    """Return the places of a feature's frames in another size, of whichever quality; none where not all of them are there."""
    name = derived_name(feature, size, None)
    found = [place for place in row.derived if place.feature == name or place.feature.startswith(f"{name}q")]
    return found if _count(found) == _count(row.frames_of(feature)) else []


def source_of(name: str, schema: Schema) -> tuple[str, Feature]:
    """Return the feature that frames were made from, and what they are themselves.

    Raises:
        ValueError: No such name, or nothing that could be resized has it.
    """
    match = _NAME.fullmatch(name)
    feature = schema.features.get(match[1]) if match else None
    if match is None or feature is None or not feature.is_image:
        raise ValueError(f"no image of the episode gives frames named {name[:80]!r}")
    return match[1], in_size(feature, (int(match[2]), int(match[3])))


@functools.lru_cache(maxsize=1_024)
def in_size(feature: Feature, size: tuple[int, int]) -> Feature:
    """Return what an image is in another size."""
    return replace(feature, shape=(*size, *(feature.shape or ())[2:]))


def _count(places: list[FramesPlace]) -> int:
    return sum(len(place.lengths) for place in places)

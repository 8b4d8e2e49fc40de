"""The few process-wide defaults, in one frozen value."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from fogx.errors import FogxError, did_you_mean, listing


class ConfigError(FogxError, ValueError):
    """An option that does not exist, or a value it cannot have."""


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600


@dataclass(frozen=True)
class Config:
    """Process-wide defaults; see `config`.

    Args:
        image: Codec for new uint8 RGB arrays: `"jpeg"` (lossy, `jpeg_quality`) or `"png"` (lossless).
        jpeg_quality: 1–100.
        memory_mb: Budget for what fogx keeps in memory to read faster, in MiB, per process.
        max_pixels: Largest image that is decoded, in pixels.
        journal_sync_s: What is recorded is on disk after so many seconds, before its episode is closed.
        progress: Whether long calls draw a progress bar.
        cache_mb: Room on disk for the columns that training reads, in MiB; the least recently used go first.
        cache_dir: Folder that they are kept in; `None` for the user's cache folder.
    """

    image: str = "jpeg"
    jpeg_quality: int = 95
    memory_mb: int = 512
    max_pixels: int = 64_000_000
    journal_sync_s: float = 1.0
    progress: bool = True
    cache_mb: int = 20_000
    cache_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        folder = self.cache_dir
        allowed = {
            "image": (self.image in ("jpeg", "png"), "'jpeg' or 'png'"),
            "jpeg_quality": (_whole(self.jpeg_quality) and 1 <= self.jpeg_quality <= 100, "1 to 100"),
            "memory_mb": (_whole(self.memory_mb) and self.memory_mb >= 1, "a whole number from 1"),
            "max_pixels": (_whole(self.max_pixels) and self.max_pixels >= 1, "a whole number from 1"),
            "progress": (isinstance(self.progress, bool), "True or False"),
            "journal_sync_s": (_seconds(self.journal_sync_s), "a number of seconds above 0, up to 3600"),
            "cache_mb": (_whole(self.cache_mb) and self.cache_mb >= 1, "a whole number from 1"),
            "cache_dir": (
                folder is None or (isinstance(folder, (str, os.PathLike)) and bool(os.fspath(folder))),
                "a folder, or None",
            ),
        }
        for name, (fits, what) in allowed.items():
            if not fits:
                raise ConfigError(f"fox.config({name}={getattr(self, name)!r}): allowed is {what}.")


_current = Config()


def config(**changes: Any) -> Config:
    """Return the defaults of this process, after changing the ones given.

    Args:
        changes: Fields of `Config`, e.g. `fox.config(image="png", memory_mb=256)`.

    Raises:
        ConfigError: An option that does not exist, or a value it cannot have; nothing is changed then.
    """
    global _current
    if changes:
        known = [f.name for f in dataclasses.fields(Config)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"no option {name!r}; there are: {listing(known)}.{did_you_mean(name, known)}")
        _current = dataclasses.replace(_current, **changes)
    return _current

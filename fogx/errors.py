"""Every error fogx raises on purpose.

Each class derives from `FogxError` and from the built-in that fits, so `except ValueError` and `except fox.FogxError` both
work. A message says where, what was found, what was allowed, how many are affected and what to do; it never prints arrays.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class FogxError(Exception):
    """Base of all errors raised by fogx."""

    def __str__(self) -> str:
        # KeyError shows repr(message); a person should read the message itself.
        return str(self.args[0]) if self.args else ""


class DatasetNotFoundError(FogxError, FileNotFoundError):
    """A root, builder directory or file that should hold data holds none."""


class NotADatasetError(FogxError, NotADirectoryError):
    """A path that should be a folder is a file, or a folder of something else."""


class FormatVersionError(FogxError, RuntimeError):
    """The root was written by a fogx whose format this one cannot read or write."""


class FeatureError(FogxError, ValueError):
    """A value, dtype, shape or declaration of a feature does not fit."""


class AlignmentError(FeatureError):
    """A policy does not fit the features that there are.

    Args:
        message: What does not fit.
        features: Names of the features that it says too much of.
    """

    def __init__(self, message: str, features: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.features = tuple(features)


class TooManyStepsError(FeatureError):
    """A rate makes so many more steps than there are samples that a stamp must be wrong."""


class QueueFullError(FogxError, BlockingIOError):
    """Values come faster than they are encoded, and `on_full="raise"` was asked for."""


class FeatureTypeError(FogxError, TypeError):
    """A value is of a type that no feature can hold."""


class MetadataError(FogxError, ValueError):
    """A metadata key or value cannot be stored as given."""


class SegmentError(FogxError, ValueError):
    """A label, a value or the bounds of a segment cannot be used."""


class EpisodeClosedError(FogxError, RuntimeError):
    """The episode was closed or discarded before this call, or is open in the process that this one was forked from."""


class EpisodeNotFoundError(FogxError, KeyError):
    """A selection names an episode that the dataset does not hold."""


class FeatureNotFoundError(FogxError, KeyError):
    """A feature name that the episode or selection does not have."""


class SelectionError(FogxError, ValueError):
    """A selection cannot be used for what was asked."""


class SchemaMismatchError(FogxError, ValueError):
    """Episodes with unlike schemas meet where one schema is needed."""


class CorruptDataError(FogxError, ValueError):
    """Stored or imported bytes fail a checksum, a bound or a parse."""


class UnknownNameError(FogxError, LookupError):
    """A name (dataset, split, ...) that is not among the known ones."""


class UnknownPluginError(UnknownNameError):
    """No loader, exporter, codec or executor of that name."""


class PluginClashError(FogxError, RuntimeError):
    """Two packages register a plug-in under one name."""


class ImportConflictError(FogxError, ValueError):
    """An import met episodes that are there already, and `on_existing="error"` was asked for."""


class ExistsError(FogxError, FileExistsError):
    """The target of a write exists already."""


class ConflictError(FogxError, RuntimeError):
    """Another writer changed the same cells or rows first."""


class ReadOnlyError(FogxError, PermissionError):
    """A write was asked of a root opened for reading only."""


class StorageError(FogxError, OSError):
    """The storage below refused an operation."""


class MissingExtraError(FogxError, ImportError):
    """An optional package is needed; the message gives the install command."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, or an empty string."""
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(lower), n=1, cutoff=0.6)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def listing(names: Iterable[object], *, most: int = 12) -> str:
    """Return names joined by commas, cut after `most` with a count of the rest; `none` where there are none."""
    items = [str(n) for n in names]
    if not items:
        return "none"
    tail = f", … ({len(items) - most} more)" if len(items) > most else ""
    return ", ".join(items[:most]) + tail


def in_one_line(error: BaseException, most: int = 300) -> str:
    """Return what an error says and why, without the colours and the stack of native code that some libraries add."""
    lines = [" ".join(re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" ↳").split()) for line in str(error).splitlines()]
    text = ": ".join(line for line in lines if line and not re.match(r"\d+: ", line))
    return (text if len(text) <= most else text[:most] + "…") or type(error).__name__


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """Build the error for an optional package that is not installed."""
    return MissingExtraError(f"{purpose} needs the package {package!r}. Install it with: pip install 'fogx[{extra}]'")

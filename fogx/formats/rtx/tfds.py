"""The one door to TensorFlow Datasets: an optional package, imported late, and never TensorFlow itself."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from fogx.errors import missing_extra


@functools.cache
def part(name: str) -> Any:
    """Return the module `tensorflow_datasets.<name>`.

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        return import_module(f"tensorflow_datasets.{name}")
    except ImportError as error:
        raise missing_extra("tensorflow-datasets", "rtx", "reading and writing RLDS (RT-X, Open-X) data") from error

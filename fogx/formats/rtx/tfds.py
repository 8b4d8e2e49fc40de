"""The one door to TensorFlow Datasets (an optional package, imported late, and never TensorFlow itself) and to its JSON files."""

from __future__ import annotations

import functools
import os
from importlib import import_module
from typing import Any

from fogx.errors import CorruptDataError, missing_extra


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


_LARGEST_JSON = 64 << 20


def read_text(path: str) -> str:
    """Return the text of one of TFDS's JSON files.

    Raises:
        CorruptDataError: It is larger than such files are.
        UnicodeDecodeError: It is no text.
    """
    with open(path, encoding="utf-8") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST_JSON:
            raise CorruptDataError(f"{path}: has {size} bytes, such files have at most {_LARGEST_JSON}. It was not read.")
        return file.read()

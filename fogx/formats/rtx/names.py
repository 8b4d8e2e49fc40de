"""Finds the local folder of an RLDS dataset by name or path, and what identifies it."""

from __future__ import annotations

import os
import re

from fogx.errors import DatasetNotFoundError, NotADatasetError, did_you_mean, listing
from fogx.storage.files.paths import is_url

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
"""Where TFDS itself keeps datasets."""

EXPORT_ID = "fogx_export_id"
"""File beside `features.json` with the 32 hex digits that tell fogx's exports apart; other readers pass it over."""

_HEX = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_builder(name: str, data_dir: str | None) -> str:
    """Return the folder that holds the `features.json` of a dataset.

    Args:
        name: `bridge_dataset`, `bridge_dataset/1.0.0`, or the path of a folder that holds `features.json` or version folders.
            Without a version the highest one there is.
        data_dir: Folder that holds datasets; looked in before `$TFDS_DATA_DIR` and TFDS's default folder.

    Raises:
        DatasetNotFoundError: Nothing of that name; says where it was looked for, in order, and what is there.
        NotADatasetError: The path is a file.
    """
    for text in (name, data_dir or ""):
        if is_url(text):
            raise DatasetNotFoundError(
                f"{text} is remote, and RLDS data is read from local folders only. Copy the dataset, e.g. with gsutil -m cp -r, "
                "and give the folder as data_dir= or name."
            )
    places = _places(name, data_dir)
    for _, base in places:
        found = _builder_at(os.path.join(base, os.path.expanduser(name)))
        if found:
            return found
    raise _not_found(name, places)


def identity(folder: str, version: str, config: str) -> tuple[str, str]:
    """Return (dataset name, version) of a builder folder: its own names, since copies are told apart by them.

    Args:
        folder: Result of `find_builder`.
        version: Version that `dataset_info.json` states; used only where the folder's name is none.
        config: Builder configuration that it states, else empty: then part of the name (`robo_net/sample_64`).
    """
    if _VERSION.fullmatch(os.path.basename(folder)):
        folder, version = os.path.split(folder)
    parent, name = os.path.split(folder)
    return (f"{os.path.basename(parent)}/{name}" if config and config == name else name), version


def export_id(folder: str) -> str | None:
    """Return the id that fogx gave an export: two exports may share name and version, and are different sources all the same."""
    try:
        with open(os.path.join(folder, EXPORT_ID), encoding="ascii") as file:
            text = file.read(64)
    except (OSError, ValueError):
        return None
    return text if _HEX.fullmatch(text) else None


def _places(name: str, data_dir: str | None) -> list[tuple[str, str]]:
    """Return (label, folder) of all places to look in, in order; the empty folder takes the name as a path."""
    if os.path.isabs(os.path.expanduser(name)) or name.startswith(("./", "../")) or name in (".", ".."):
        return [("the path itself", "")]
    environment = os.environ.get("TFDS_DATA_DIR")
    places = [("data_dir", data_dir), ("$TFDS_DATA_DIR", environment), ("TFDS's default folder", DEFAULT_DATA_DIR)]
    return [(label, os.path.expanduser(base)) for label, base in places if base] + [("the current folder", os.getcwd())]


def _builder_at(path: str) -> str | None:
    folder = os.path.abspath(path)
    if os.path.isfile(folder):
        raise NotADatasetError(
            f"{folder} is a file; an RLDS dataset is a folder that holds features.json and .tfrecord files. Give that folder."
        )
    if os.path.isfile(os.path.join(folder, "features.json")):
        return folder
    versions = _versions(folder)
    return os.path.join(folder, versions[-1]) if versions else None


def _versions(folder: str) -> list[str]:
    """Return the version folders that hold a dataset, lowest first."""
    found = [v for v in _subfolders(folder) if _VERSION.fullmatch(v) and os.path.isfile(f"{folder}/{v}/features.json")]
    return sorted(found, key=lambda version: [int(n) for n in version.split(".")])


def _subfolders(folder: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if os.path.isdir(folder) else []


def _datasets(folder: str) -> list[str]:
    """Return the names under which datasets lie in a folder, configurations included."""
    found = []
    for name in _subfolders(folder):
        if _versions(f"{folder}/{name}") or os.path.isfile(f"{folder}/{name}/features.json"):
            found.append(name)
        found += [f"{name}/{config}" for config in _subfolders(f"{folder}/{name}") if _versions(f"{folder}/{name}/{config}")]
    return found


def _not_found(name: str, places: list[tuple[str, str]]) -> DatasetNotFoundError:
    looked, known = [], []
    for label, base in places:
        path = os.path.abspath(os.path.join(base, os.path.expanduser(name)))
        there = _datasets(base or os.path.dirname(path))
        # Of the current folder only the one path counts: its other folders are not meant as datasets.
        known += [] if label == "the current folder" else there
        looked.append(f"{path} ({label})")
    head, _, version = name.rpartition("/")
    others = [v for _, base in places for v in _versions(os.path.join(base, os.path.expanduser(head)))] if head else []
    if others and _VERSION.fullmatch(version):
        return DatasetNotFoundError(f"{head!r} has no version {version}; there are: {listing(others)}.")
    unset = "" if os.environ.get("TFDS_DATA_DIR") else " $TFDS_DATA_DIR is not set."
    return DatasetNotFoundError(
        f"no RLDS dataset {name!r}. Looked for, in order: {'; '.join(looked)}.{unset} Datasets there: {listing(known)}."
        f"{did_you_mean(name, known)} Give the folder that holds <name>/<version>/features.json as data_dir=, or in "
        "$TFDS_DATA_DIR, or the dataset's own folder as name."
    )

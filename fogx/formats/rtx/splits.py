"""What `dataset_info.json` says: splits, their shards, and which records of which shard a split expression means."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fogx.errors import CorruptDataError, DatasetNotFoundError, NotADatasetError, UnknownNameError, did_you_mean, listing
from fogx.formats.rtx.tfds import part, read_text

logger = logging.getLogger("fogx")

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

_MOST_SPLITS, _MOST_SHARDS = 1_000, 100_000

_NAME = re.compile(r"\w[\w.-]*")
_TEMPLATE = re.compile(r"(?:[\w.-]|\{(?:DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\})+")


@dataclass(frozen=True)
class ShardRange:
    """Records `[first, stop)` of one file.

    Args:
        split: Name of the split.
        shard: Position of the file in the split.
        path: The file.
        length: Records in the file, as declared.
    """

    split: str
    shard: int
    path: str
    length: int
    first: int
    stop: int


def read_info(folder: str) -> Any:
    """Return the `DatasetInfo` message of a builder folder.

    Raises:
        DatasetNotFoundError: There is no `dataset_info.json`.
        CorruptDataError: It is not one, or holds names that are none.
        NotADatasetError: Its records are not in TFRecord files.
    """
    path = os.path.join(folder, "dataset_info.json")
    messages = part("core.proto").dataset_info_pb2
    json_format = import_module("google.protobuf.json_format")
    try:
        text = read_text(path)
        info = json_format.Parse(text, messages.DatasetInfo(), ignore_unknown_fields=True)
    except FileNotFoundError:
        raise DatasetNotFoundError(f"{folder} holds features.json but no dataset_info.json. Copy the dataset again.") from None
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptDataError(f"{path}: is not a dataset_info.json: {error}.") from None
    if info.file_format not in ("", "tfrecord"):
        raise NotADatasetError(f"{folder} keeps its records as {info.file_format}; fogx reads tfrecord.")
    shards = sum(len(split.shard_lengths) for split in info.splits)
    if len(info.splits) > _MOST_SPLITS or shards > _MOST_SHARDS:
        raise CorruptDataError(
            f"{path}: declares {len(info.splits)} splits of {shards} files, allowed are {_MOST_SPLITS} and {_MOST_SHARDS}."
        )
    # These become file names, so they may not lead out of the folder.
    for text in (info.name, *(split.name for split in info.splits)):
        if not _NAME.fullmatch(text):
            raise CorruptDataError(f"{path}: {text[:80]!r} is not a name of a dataset or split.")
    for split in info.splits:
        if not _TEMPLATE.fullmatch(split.filepath_template or TEMPLATE) or any(n < 0 for n in split.shard_lengths):
            raise CorruptDataError(f"{path}: split {split.name!r} has no usable filepathTemplate and shardLengths.")
    return info


def plan_shards(folder: str, info: Any, split: str) -> list[ShardRange]:
    """Return the records that a split expression means, each once, in order of splits and shards.

    Args:
        folder: Builder folder.
        info: Its `DatasetInfo`.
        split: In TFDS's syntax: `train`, `train[:75%]`, `train[3:5]`, `train+val`; `all` for every split whose files are there.

    Raises:
        UnknownNameError: No such split, or a slice that it does not have; lists the splits.
        DatasetNotFoundError: Shard files are missing; names them, and the splits whose files are there.
    """
    template = part("core.naming").ShardedFileTemplate(
        data_dir=folder, template=TEMPLATE, dataset_name=info.name, filetype_suffix="tfrecord"
    )
    splits = part("core.splits").SplitDict.from_proto(info.splits, template)
    shards = {
        os.fspath(path): (name, position, length)
        for name, s in splits.items()
        for position, (path, length) in enumerate(zip(s.filepaths, s.shard_lengths, strict=True))
    }
    complete = [name for name in splits if all(os.path.isfile(p) for p, (owner, _, _) in shards.items() if owner == name)]
    if split == "all":
        instructions = [i for name in _present(splits, shards) for i in splits[name].file_instructions]
    else:
        instructions = _instructions(splits, split)
    wanted: dict[str, list[tuple[int, int]]] = {}
    for instruction in instructions:
        if instruction.take > 0:
            ranges = wanted.setdefault(os.fspath(instruction.filename), [])
            ranges.append((instruction.skip, instruction.skip + instruction.take))
    missing = [os.path.basename(path) for path in wanted if not os.path.isfile(path)]
    if missing:
        raise DatasetNotFoundError(
            f"{folder}: {len(missing)} of the {len(wanted)} files of split {split!r} are missing: {listing(missing)}. "
            f"Splits with all their files: {listing(complete)}. Copy the missing files, or choose one of these splits."
        )
    return [
        ShardRange(*shards[path][:2], path, shards[path][2], first, stop)
        for path, ranges in wanted.items()
        for first, stop in _union(ranges)
    ]


def _present(splits: Any, shards: dict[str, tuple[str, int, int]]) -> list[str]:
    """Return the splits with a file or more; the others (only listed, as in a partial copy) are left out with a warning."""
    present = {owner for path, (owner, _, _) in shards.items() if os.path.isfile(path)}
    absent = [name for name in splits if name not in present and splits[name].num_examples]
    if absent and not present:
        raise DatasetNotFoundError(
            f"none of the {len(shards)} record files are there, e.g. {next(iter(shards))}. Copy the dataset again."
        )
    if absent:
        logger.warning(
            "split(s) %s are listed in dataset_info.json, but none of their files are there: left out", listing(absent)
        )
    return [name for name in splits if name in present and splits[name].num_examples]


def _instructions(splits: Any, split: str) -> list[Any]:
    have = listing(f"{name} ({s.num_examples} episodes)" for name, s in splits.items())
    for name in (re.split(r"\[", term)[0].strip() for term in split.split("+")):
        if name not in splits and (name != "all" or not splits):
            raise UnknownNameError(f"no split {name!r}; there are: {have}; and all.{did_you_mean(name, splits)}")
    try:
        return list(splits[split].file_instructions)
    except (ValueError, TypeError, NotImplementedError, KeyError):
        example = next(iter(splits))
        raise UnknownNameError(
            f"split {split!r} is not one that can be read; there are: {have}. Write for instance {example!r}, "
            f"'{example}[:75%]', '{example}[0:{splits[example].num_examples}]' or 'all'."
        ) from None


def _union(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that overlap or touch, so that `train+train[:3]` names no record twice."""
    joined: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((first, stop))
    return joined

"""Exports episodes as an RLDS dataset in TFDS's folder layout, without TensorFlow."""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

from fogx.errors import ExistsError, MetadataError, StorageError
from fogx.feature import Feature, Schema
from fogx.formats.rtx.declare import targets
from fogx.formats.rtx.encode import EpisodeEncoder
from fogx.formats.rtx.names import EXPORT_ID
from fogx.formats.rtx.splits import TEMPLATE
from fogx.formats.rtx.tfds import part
from fogx.formats.rtx.tfrecord import RecordWriter
from fogx.protocols import EpisodeData
from fogx.storage.files.durable import fsync_files, fsync_folder, make_folders
from fogx.storage.files.paths import is_url

logger = logging.getLogger("fogx")

_NAMES = {"name": r"[A-Za-z]\w*", "version": r"\d+\.\d+\.\d+", "split": r"(?!all$)\w[\w-]*"}


class RtxExporter:
    """Exporter of `tfrecord` datasets in RLDS layout, as `tfds.builder_from_directory` reads them."""

    name = "rtx"

    def export(
        self,
        episodes: Iterable[EpisodeData],
        schema: Schema,
        path: str,
        *,
        name: str,
        version: str = "1.0.0",
        split: str = "train",
        max_shard_mb: int = 256,
        timestamps: bool = False,
        metadata_features: Mapping[str, Feature] | None = None,
    ) -> str:
        """Write episodes into the new folder `path`, which appears whole or not at all.

        Encoded images pass unchanged, names nest at `/`, and float64 and uint64, which a `tf.train.Example` cannot hold, are kept
        exactly as bytes. `is_first`, `is_last`, `is_terminal`, `reward`, `discount` and `language_instruction` are made up where
        the schema lacks them. Missing values become nan, 0, empty text or a black image, with one warning at the end.

        Args:
            episodes: Consumed once, one in memory at a time.
            schema: Their schema.
            path: Local folder to create, usually `.../<name>/<version>`.
            name: Name of the dataset: letters, digits and `_`.
            version: Three numbers.
            split: Name of the one split that is written.
            max_shard_mb: A file is closed before it grows past this many MiB; an episode is never cut.
            timestamps: Whether to write the times of the steps, as int64 `timestamp_ns`.
            metadata_features: Metadata columns to write besides the schema's fields of the episode, as `episode_metadata/<key>`.

        Returns:
            `path`.

        Raises:
            StorageError: `path` is a URL, or cannot be written.
            ExistsError: There is something at `path`.
            MetadataError: A name, version or split that TFDS does not take, or a metadata value that does not fit its feature.
            SchemaMismatchError: An episode of another schema, or names that cannot be nested.
            FeatureError: A feature that TFDS cannot hold.
            MissingExtraError: TensorFlow Datasets is not installed.
        """
        for option, text in (("name", name), ("version", version), ("split", split)):
            if not re.fullmatch(_NAMES[option], text, re.ASCII):
                raise MetadataError(f"{option}={text!r} is not usable in RLDS; it has the form {_NAMES[option]}.")
        if max_shard_mb < 1:
            raise MetadataError(f"max_shard_mb={max_shard_mb} is not usable; give 1 or more.")
        if is_url(path):
            raise StorageError(f"RLDS is written to a local folder, not to {path}. Give a local folder, and copy it there.")
        target = os.path.abspath(path)
        if os.path.lexists(target):
            raise ExistsError(f"{target} exists already; nothing was written. Choose another path.")
        encoder = EpisodeEncoder(targets(schema, metadata_features or {}, timestamps=timestamps))
        partial = f"{target}.partial-{uuid.uuid4().hex}"
        with _storing(target):
            make_folders(partial)
        try:
            shards = _Shards(partial, name, split, max_shard_mb << 20)
            try:
                for episode in episodes:
                    record = encoder.encode(episode)
                    with _storing(target):
                        shards.write(record)
            finally:
                with _storing(target):
                    shards.close()
            with _storing(target):
                encoder.features.save_config(partial)
                _write_info(partial, name, version, split, shards)
                fsync_files(os.path.join(partial, file) for file in sorted(os.listdir(partial)))
                os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        fsync_folder(os.path.dirname(target))
        made_up = {column: count for column, count in encoder.made_up.items() if count}
        if made_up:
            text = ", ".join(f"{column} ({count})" for column, count in made_up.items())
            logger.warning("%s: values that were missing were written as nan, 0, empty or black: %s", target, text)
        return target


@contextmanager
def _storing(target: str) -> Iterator[None]:
    """Name the export in errors of the file system; not around the episodes, whose errors are their own."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}. Nothing of it was kept.") from error


class _Shards:
    """Writes records into files of a bounded size; their final names are given once their number is known."""

    def __init__(self, folder: str, name: str, split: str, limit: int) -> None:
        self._folder = folder
        self._template = part("core.naming").ShardedFileTemplate(
            data_dir=folder, template=TEMPLATE, dataset_name=name, split=split, filetype_suffix="tfrecord"
        )
        self._limit = limit
        # At least one: TFDS takes a split without files for one that was not generated.
        self._writers = [self._open(0)]

    @property
    def lengths(self) -> list[int]:
        return [writer.num_records for writer in self._writers]

    @property
    def num_bytes(self) -> int:
        return sum(writer.num_bytes for writer in self._writers)

    def write(self, record: bytes) -> None:
        current = self._writers[-1]
        if current.num_records and current.num_bytes + len(record) > self._limit:
            current.close()
            current = self._open(len(self._writers))
            self._writers.append(current)
        current.write(record)

    def close(self) -> None:
        self._writers[-1].close()
        for index, writer in enumerate(self._writers):
            final = self._template.relative_filepath(shard_index=index, num_shards=len(self._writers))
            os.rename(writer.path, os.path.join(self._folder, final))

    def _open(self, index: int) -> RecordWriter:
        return RecordWriter(os.path.join(self._folder, f"shard-{index}"))


def _write_info(folder: str, name: str, version: str, split: str, shards: _Shards) -> None:
    messages = part("core.proto").dataset_info_pb2
    info = messages.DatasetInfo(
        name=name,
        version=version,
        file_format="tfrecord",
        splits=[
            messages.SplitInfo(name=split, filepath_template=TEMPLATE, shard_lengths=shards.lengths, num_bytes=shards.num_bytes)
        ],
    )
    with open(os.path.join(folder, EXPORT_ID), "x", encoding="ascii") as file:
        file.write(uuid.uuid4().hex)
    with open(os.path.join(folder, "dataset_info.json"), "x", encoding="utf-8") as file:
        file.write(import_module("google.protobuf.json_format").MessageToJson(info, indent=2, sort_keys=True))

"""Loads RLDS datasets (RT-X, Open-X) from TFDS folders, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fogx.formats.rtx.features import read_layout
from fogx.formats.rtx.names import export_id, find_builder, identity
from fogx.formats.rtx.splits import plan_shards, read_info
from fogx.formats.rtx.tfrecord import read_records
from fogx.formats.rtx.values import read_content
from fogx.protocols import EpisodeData, ShardTask


class RtxLoader:
    """Loader of `tfrecord` datasets in RLDS layout.

    Names and units of the numbers are left open: the format does not state them.
    """

    def plan(self, name: str, *, split: str, data_dir: str | None) -> list[ShardTask]:
        """Find the dataset and list the shards of a split, reading no episode.

        Args:
            name: `berkeley_autolab_ur5`, `berkeley_autolab_ur5/0.1.0`, or the path of a dataset's folder.
            split: In TFDS's syntax: `train`, `train[:75%]`, `train[3:5]`, `train+val`, `all`.
            data_dir: Folder that holds datasets; then `$TFDS_DATA_DIR` and `~/tensorflow_datasets` are looked in.

        Returns:
            One task for each shard; several where the split names ranges of it that do not touch.

        Raises:
            DatasetNotFoundError: Nothing of that name, or files of the split are missing.
            NotADatasetError: A file, or a dataset without steps or in another file format.
            UnknownNameError: No such split or slice; lists the splits.
            CorruptDataError: `features.json` or `dataset_info.json` cannot be understood.
            FeatureError: A feature that fogx cannot hold.
            MissingExtraError: TensorFlow Datasets is not installed.
        """
        folder = find_builder(name, data_dir)
        info = read_info(folder)
        read_layout(folder)
        dataset, version = identity(folder, info.version, info.config_name)
        own = export_id(folder)
        edition = f"{version}@{own}" if own else version
        return [
            ShardTask(
                loader="rtx",
                location=piece.path,
                source=f"rlds:{dataset}/{edition}/{piece.split}",
                shard=piece.shard,
                first=piece.first,
                stop=piece.stop,
                num_episodes=piece.stop - piece.first,
                options={"folder": folder, "dataset": dataset, "split": piece.split, "shard_length": piece.length},
            )
            for piece in plan_shards(folder, info, split)
        ]

    def read(self, task: ShardTask, wanted: Callable[[str], bool]) -> Iterator[EpisodeData]:
        """Yield the wanted episodes of a shard in order; the others are passed over unread.

        Args:
            task: From `plan`.
            wanted: Asked with the source key of each record, before it is read.

        Raises:
            CorruptDataError: A damaged or truncated file, or a record that does not fit `features.json`; names file, record, and
                byte or feature.
            FeatureError: An episode with images that are neither all JPEG nor all PNG, or float32 images of several sizes.
            StorageError: The file cannot be read.
        """
        layout = read_layout(task.options["folder"])
        records = read_records(
            task.location,
            lambda record: wanted(task.source_key(record)),
            first=task.first,
            stop=task.stop,
            declared=task.options["shard_length"],
        )
        for record, data in records:
            content = read_content(data, layout, f"{task.location}: record {record}")
            yield EpisodeData(
                schema=content.schema,
                columns=content.columns,
                num_steps=content.num_steps,
                timestamps_ns=content.timestamps_ns,
                metadata=content.metadata,
                dataset=task.options["dataset"],
                split=task.options["split"],
                source_key=task.source_key(record),
            )

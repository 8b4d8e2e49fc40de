"""The facade: every verb a user types on a dataset. Bodies delegate; the work is in the rooms below."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fogx.align.policy import Align
from fogx.errors import SelectionError
from fogx.feature import Feature, check_declared
from fogx.ids import new_id
from fogx.jobs.check import check
from fogx.jobs.compact import compact
from fogx.jobs.edit import changed_cells, tag_cells
from fogx.jobs.export import export_episodes
from fogx.jobs.load import load_episodes
from fogx.jobs.realign import realign
from fogx.jobs.repair import repair
from fogx.jobs.segments import Part, annotate, check_segments_frame, remove
from fogx.protocols import Executor
from fogx.reading.overview import history_frame, html, line, vacuum_frame
from fogx.reading.roots import Roots
from fogx.reading.segments import segments_frame
from fogx.reading.selection import choose, in_write_root
from fogx.reading.steps import lazy_steps
from fogx.reading.table import EpisodeFrame, episode_frame, joined_columns
from fogx.reading.versions import numbered, token_of
from fogx.reading.view import EpisodeView
from fogx.recording.episode import Episode
from fogx.recording.frames import Frames
from fogx.recording.journal import Journal, journals_of
from fogx.recording.recovery import recover, sealed_files, tell_of_left
from fogx.recording.sealing import seal
from fogx.storage.log.rows import check_metadata

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from fogx.training.normalize import Normalizer
    from fogx.training.torch import StepDataset
    from fogx.training.windows import StepWindow, TimeWindow


class Dataset:
    """Episodes of robot data: a table of episodes always at hand, steps lazy, cameras at known bytes.

    A handle sees the versions of its roots at the time it was opened, plus its own commits; `refresh()` moves it. Opening reads
    the (small) episode tables and no step or image data.

    Args:
        path: Folder or URL (`s3://bucket/folder`) where new episodes go, created at the first write. Without it, the first of
            `load_from`.
        load_from: Roots to read as one; each but the write root must hold a dataset.
        name: Name of a dataset that is yet to be created; the folder's name by default.
        features: What features mean, by name, for every episode recorded through this handle.
        storage_options: For remote roots, as s3fs and gcsfs take them; never stored. On S3 `key`, `secret`, `token`, `anon`,
            `profile`, `endpoint_url`, `region_name`, `client_kwargs`, `config_kwargs` (as in `{"retries": {"max_attempts": 2}}`);
            without credentials those of the environment. For roots that differ, dicts by URL, as in
            `{"s3://ours": {"profile": "lab"}, "s3://open/bridge": {"anon": True}}`: the longest URL that a root lies under counts.
        version: Version to look at, as `at` takes it; the handle is then read-only.
        read_only: Refuse writes.

    Raises:
        DatasetNotFoundError: A root other than the write root, or any root when read-only, that holds no dataset.
        NotADatasetError: A path that is a file.
        FormatVersionError: A root written by a newer fogx.
        SelectionError: Neither `path` nor `load_from`.
        StorageError: A remote root that cannot be reached or may not be read; options that make writing unsafe.
        UnknownNameError: No such version, profile or option.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        load_from: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        name: str | None = None,
        features: Mapping[str, Feature] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        version: int | str | datetime | None = None,
        read_only: bool = False,
    ) -> None:
        sources = [load_from] if isinstance(load_from, (str, os.PathLike)) else list(load_from)
        self._roots = Roots(path, sources, name, storage_options, version, read_only)
        self._features = check_declared(features or {})
        self._recorded: list[str] = []
        tell_of_left(self._roots.write.store)

    # Look

    @property
    def path(self) -> str:
        """The write root: an absolute folder or a URL."""
        return self._roots.write.path

    @property
    def name(self) -> str:
        """Name of the write root's dataset."""
        return self._roots.write.name

    @property
    def version(self) -> int | None:
        """Version of the write root that this handle last saw or made; `None` before the first write."""
        return self._roots.write.log.version if self._roots.write.log else None

    @property
    def version_token(self) -> str:
        """Text that names the versions of all roots as this handle sees them; `at` and `version=` take it."""
        return token_of([root.log for root in self._roots.all if root.log])

    @property
    def episodes(self) -> list[EpisodeView]:
        """All episodes as views; nothing is read before it is asked for."""
        return self.read_by(None)

    def __len__(self) -> int:
        return len(self._roots.chosen())

    def __iter__(self) -> Iterator[EpisodeView]:
        return (EpisodeView(root.store, row) for root, row in self._roots.chosen())

    def __repr__(self) -> str:
        return line(self._roots)

    def _repr_html_(self) -> str:
        return html(self._roots)

    # Record

    def new_episode(
        self,
        metadata: Mapping[str, Any] | None = None,
        *,
        task: str | None = None,
        align: Align | None = None,
        features: Mapping[str, Feature] | None = None,
        on_full: str = "wait",
        on_bad_value: str = "raise",
    ) -> Episode:
        """Begin a recording; nothing is visible before its `close()`. Several may be open at once.

        Args:
            metadata: Episode metadata: scalars become columns of the table, arrays and dicts are read through `view.metadata`.
            task: What the robot is asked to do; becomes `language_instruction` on export.
            align: How samples become steps, where sensors have rates of their own: `fox.Align(rate_hz=30)`; see `Episode.add`.
            features: What features mean, for this episode; takes precedence over the dataset's.
            on_full: What `add` does where images come faster than they are encoded: `"wait"`, or `"raise"` a `QueueFullError`.
            on_bad_value: What becomes of a value that `add` refuses, such as one of another shape: `"raise"`, or `"quarantine"`: it
                is left out and not kept, recording goes on, `close` warns, and `view.metadata["quarantined"]` has for each feature
                `count` and `first_error`.

        Raises:
            MetadataError: A key that is fogx's own, a value of a type that is not stored, or a task that is no text.
            FeatureError: `features` is no dict of `fox.Feature`, or `align` no `fox.Align`.
            ReadOnlyError: The handle is read-only.
            UnknownNameError: Another `on_full` or `on_bad_value`.
        """
        self._roots.write.check_writable()
        episode_id, store = new_id(), self._roots.write.store
        save = functools.partial(seal, store, self._roots.write.writable, self.name, episode_id)
        declared = {**self._features, **check_declared(features or {})}
        return Episode(
            save,
            episode_id=episode_id,
            metadata=metadata,
            task=task,
            features=declared,
            align=align,
            saved=self._recorded.append,
            journal=functools.partial(Journal.create, journals_of(store), episode_id),
            check_metadata=check_metadata,
            frames=Frames.of(store, self.name, episode_id),
            on_full=on_full,
            on_bad_value=on_bad_value,
        )

    def discard_last(self) -> str:
        """Delete the episode that this handle saved last, as after a bad take; again, the one before. Returns its id.

        As after `delete`, older versions still show it.

        Raises:
            SelectionError: This handle has saved none that is still there; an open episode has a `discard` of its own.
            ReadOnlyError: The handle is read-only.
        """
        self._roots.write.check_writable()
        ids = self._roots.write.rows["episode_id"]
        while self._recorded and ids.index(self._recorded[-1]).as_py() < 0:
            self._recorded.pop()  # deleted before
        if not self._recorded:
            raise SelectionError(
                f"{self.path}: this handle has saved no episode that is still there. Choose one, and delete() it."
            )
        self.delete([self._recorded[-1]])
        return self._recorded.pop()

    def recover(self, *, discard: bool = False, dry_run: bool = False) -> pd.DataFrame:
        """Save the recordings of the write root that were open when their process died, from their journals.

        They hold what was recorded up to about a second before (`fox.config().journal_sync_s`), images as far as they were encoded.
        Recordings that are still going on are left alone. A file of images that is damaged costs its images only; a line is logged.

        Args:
            discard: Remove them instead.
            dry_run: Only list them; nothing is saved or removed, with `discard` neither, which then removes all but those that are
                `recording`.

        Returns:
            One row for each: `episode_id`, `began`, `values`, `bytes`, `unread` (bytes that were damaged), `outcome`: `recording`
            (its process lives), `left` (in a dry run), `saved`, `saved before`, `discarded`, `empty`, or `unreadable`: that journal is
            damaged, nothing of it can be saved, and it stays until it is discarded. Those that are saved have the metadata
            `interrupted` = `"process died"`.

        Raises:
            StorageError: They could not be saved; the journals stay.
            ReadOnlyError: The handle is read-only.
        """
        write = self._roots.write
        write.check_writable()
        return recover(write.store, write.writable, self.name, discard=discard, dry_run=dry_run)

    # Import

    def load_rtx_episodes(
        self,
        name: str | os.PathLike[str],
        *,
        split: str = "all",
        additional_metadata: Mapping[str, Any] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        on_existing: str = "skip",
        executor: str | Executor | None = None,
    ) -> list[str]:
        """Import episodes of an Open-X / RT-X (RLDS) dataset; camera bytes are taken over as they are, never decoded.

        Args:
            name: An Open-X name (`"berkeley_autolab_ur5"`), `name/version`, or a TFDS builder directory. Looked for in
                `data_dir`, then `$TFDS_DATA_DIR`, then TFDS's default folder.
            split: TFDS split syntax: `"train"`, `"train[:75%]"`, `"train[3:5]"`, `"train+val"`, or `"all"`.
            additional_metadata: Columns set on the episodes of this call only.
            data_dir: Folder that holds the dataset's folder.
            on_existing: What to do with episodes imported before: `"skip"` them, `"error"`, or `"append"` them again.
            executor: Name of an executor, or one; this process by default.

        Returns:
            Ids of the episodes added, in order of the source.

        Raises:
            DatasetNotFoundError: Nothing of that name; says what was tried, in order.
            UnknownNameError: No such split; lists those there are.
            CorruptDataError: A damaged file; names it, and the byte. Shards committed before stay, and the same call goes on.
            ImportConflictError: `on_existing="error"` and episodes that are there already.
            MissingExtraError: `pip install 'fogx[rtx]'` is needed.
            ReadOnlyError: The handle is read-only.
        """
        return self.load(name, "rtx", split=split, additional_metadata=additional_metadata, data_dir=data_dir,
                         on_existing=on_existing, executor=executor)  # fmt: skip

    def load(
        self,
        source: str | os.PathLike[str],
        format: str = "rtx",
        *,
        split: str = "all",
        additional_metadata: Mapping[str, Any] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        on_existing: str = "skip",
        executor: str | Executor | None = None,
    ) -> list[str]:
        """Import episodes through any installed loader; see `load_rtx_episodes` for the arguments.

        Args:
            source: What the loader takes: a name or a path.
            format: Name of a loader (entry point group `fogx.loaders`).
            split: See `load_rtx_episodes`, as all that follow.
            additional_metadata: Columns set on the episodes of this call only.
            data_dir: Folder that holds the source.
            on_existing: `"skip"`, `"error"` or `"append"`.
            executor: Name of an executor, or one.

        Raises:
            UnknownPluginError: No such loader; lists those there are.
            ReadOnlyError: The handle is read-only.
        """
        return load_episodes(self._roots.write, format, os.fspath(source), split=split, additional_metadata=additional_metadata,
                             data_dir=data_dir, on_existing=on_existing, executor=executor)  # fmt: skip

    # Select and read

    def get_episode_info(self) -> EpisodeFrame:
        """Return the table of episodes: a pandas DataFrame of its own, whose `filter` also takes a boolean mask.

        One row an episode: `episode_id`, `root`, `dataset`, `split`, `start_ns` (ns since 1970), `duration_s`, `num_steps`,
        `control_hz`, `success`, then the metadata of users and sources. Dtypes are nullable.
        """
        return episode_frame(self._roots.chosen())

    def read_by(self, episodes: Any = None) -> list[EpisodeView]:
        """Return views of the selected episodes, in the selection's order.

        Args:
            episodes: A frame with `episode_id`, a boolean mask, ids, views, or a callable of the frame; `None` for all.

        Raises:
            EpisodeNotFoundError: Ids that the dataset does not hold.
            SelectionError: Something that selects no episodes.
        """
        return [EpisodeView(root.store, row) for root, row in choose(self._roots, episodes)]

    def get_step_data(
        self,
        episodes: Any = None,
        *,
        images: str = "index",
        align: Align | None = None,
        with_metadata: str | Iterable[str] = (),
    ) -> pl.LazyFrame:
        """Return the steps of the selected episodes as one polars LazyFrame, in the selection's order.

        Nothing is read before `collect()`, and then only the columns and row groups used. Columns: `episode_id`,
        `step_index` (int64, from 0), `timestamp_ns` (int64, null without times), one a feature. Arrays are flat, in C order.
        Where episodes differ in shape a feature is a `List`, where they differ in dtype the lossless supertype; where there is
        none, collecting that column is an error and the others can be read.

        Args:
            episodes: As in `read_by`.
            images: Cameras as `"index"` (int32 frame number), `"encoded"` (bytes as stored) or `"pixels"` (decoded arrays).
            align: Make the steps anew from the samples that were kept, as recording with this policy would have; one episode at a
                time, while collecting. Where steps came with times, or sensors gave all values together, the steps are the samples.
                Episodes without times are taken to have `control_hz` steps a second, and keep `timestamp_ns` null. What the policy
                says of a feature does not concern episodes that lack it.
            with_metadata: Columns of `get_episode_info()` to join to each step.

        Raises:
            EpisodeNotFoundError: Ids that the dataset does not hold.
            FeatureError: `align` names a feature that no episode has, or a clock that some have not; when collecting, a policy that a
                feature's values do not allow, or a `rate_hz` that one stray stamp makes far too many steps of.
            SelectionError: An unknown `images` or metadata column; with `align`, episodes with neither times nor `control_hz`.
        """
        chosen = choose(self._roots, episodes)
        return lazy_steps(chosen, images, joined_columns(chosen, with_metadata), align)

    def segments(self, episodes: Any = None, label: str | None = None) -> pd.DataFrame:
        """Return the labels on parts of the selected episodes, one row a segment, in the selection's order and then by start.

        Columns: `episode_id`, `label`, `start_s` and `stop_s` (since the start of the episode), `start_ns` and `stop_ns` (as
        `timestamp_ns` of steps), `start_step` and `stop_step`, `from_start` and `to_end` (bool: it starts, or stops, where the
        episode does, also after `realign`), `value`, and `source`: `"recording"`, or `"annotate:"` and the name of a user. All are
        half-open: the step at `stop` is not in the segment. Without times `start_ns` and `stop_ns` are null, and seconds are those of
        `control_hz`, or null. A segment that lies between two steps has `start_step == stop_step`.

        Args:
            episodes: As in `read_by`.
            label: Only segments of this label.

        Raises:
            EpisodeNotFoundError: Ids that the dataset does not hold.
            SegmentError: A label that no segment can have.
            CorruptDataError: A file of segments that is lost or damaged.
        """
        return segments_frame(choose(self._roots, episodes), label)

    # Edit

    def update_episode_info(self, info: EpisodeFrame) -> int:
        """Write edited cells of the table back, in one commit; returns how many episodes changed.

        Args:
            info: A frame from `get_episode_info()`, edited. Absent rows and columns stay as they are; `episode_id` may be the
                index. A cell set to NA is emptied.

        Raises:
            MetadataError: A changed cell in one of fogx's own columns that cannot be edited, or a new column's name or type.
            EpisodeNotFoundError: A row of no episode.
            ConflictError: Another commit changed some of the same cells; names them. Nothing is written.
            SelectionError: A changed row of another root than the write root.
            ReadOnlyError: The handle is read-only.
        """
        self._roots.write.check_writable()
        changes, base = changed_cells(self._roots, info)
        return self._roots.write.writable().edit(changes, operation="update_episode_info", base=base) if changes else 0

    def tag(self, episodes: Any, **values: Any) -> int:
        """Set columns of the selected episodes to the values given, in one commit; returns how many episodes were tagged.

        Args:
            episodes: As in `read_by`, `None` for all; they must lie in the write root.
            values: Column → value; `None` empties the cells.

        Raises:
            MetadataError: A name or value that cannot be stored.
            SelectionError: Episodes of another root; names it.
            ReadOnlyError: The handle is read-only.
        """
        changes = tag_cells(in_write_root(self._roots, choose(self._roots, episodes), "tag"), values)
        return self._roots.write.writable().edit(changes, operation="tag") if changes else 0

    def annotate(
        self,
        episodes: Any,
        label: str,
        start_s: float | None = None,
        stop_s: float | None = None,
        value: Any = None,
        *,
        start_step: int | None = None,
        stop_step: int | None = None,
    ) -> int:
        """Label the same part of each selected episode, in one commit; returns how many episodes.

        Ends are half-open, and each is given in seconds or in steps, or left out for that of the episode. Labels may overlap. Saying
        the same again changes nothing. What others label at the same time is kept. Episodes keep their segments through `realign`.

        Args:
            episodes: As in `read_by`, `None` for all; they must lie in the write root.
            label: 1–200 printable characters.
            start_s: First moment, in seconds since the episode's first step. Of episodes without times step `k` is at
                `k / control_hz`.
            stop_s: End, in the same seconds; a step at that moment is not in it.
            value: More that is said of it: a bool, int, float or str.
            start_step: First step, instead of `start_s`.
            stop_step: One past the last step, instead of `stop_s`.

        Raises:
            SegmentError: A label, value or end that cannot be used; episodes that are shorter; seconds where an episode has neither
                times nor `control_hz`. Nothing is changed then.
            SelectionError: Episodes of another root; names it.
            ConflictError: Others kept changing segments of the same episodes; nothing was changed.
            ReadOnlyError: The handle is read-only.
        """
        part = Part(label, value, start_s, stop_s, start_step, stop_step)
        ids = in_write_root(self._roots, choose(self._roots, episodes), "annotate")
        return annotate(self._roots.write, ids, part) if ids else 0

    def remove_segments(self, segments: pd.DataFrame) -> int:
        """Take segments away, in one commit; returns how many. Older versions still show them.

        Args:
            segments: Rows of a frame from `segments()`, as in `dataset.remove_segments(dataset.segments(label="draft"))`. Those that
                are gone already are passed over.

        Raises:
            SelectionError: No such frame; or episodes of another root, which it names.
            ConflictError: As `annotate`.
            ReadOnlyError: The handle is read-only.
        """
        check_segments_frame(segments)
        ids = in_write_root(self._roots, choose(self._roots, segments["episode_id"]), "remove_segments")
        return remove(self._roots.write, ids, segments) if ids else 0

    def delete(self, episodes: Any) -> int:
        """Take the selected episodes out of the dataset, in one commit; returns how many.

        Their data files stay until they are vacuumed, and older versions still show them.

        Args:
            episodes: As in `read_by`, but `None` deletes nothing; all must lie in the write root.

        Raises:
            SelectionError: Episodes of another root; names it.
            ReadOnlyError: The handle is read-only.
        """
        ids = in_write_root(self._roots, choose(self._roots, [] if episodes is None else episodes), "delete")
        return self._roots.write.writable().delete(ids) if ids else 0

    # Look after

    def compact(self, episodes: Any = None, *, partition_by: str = "dataset") -> int:
        """Pack episodes that lie in many small or mostly dead files into few large ones; returns how many moved.

        A recording writes files of its own, and reading thousands of them is slow. Values, frames and checksums stay as they
        are, old versions read as before, and the old files go with `vacuum`. Each group of about 256 MB is one commit; one
        episode at a time is in memory, and the buffers of a row group. Selecting by `episodes` does not change others.

        Args:
            episodes: As in `read_by`; all must lie in the write root.
            partition_by: Column whose value names the folders (`a`-`z` and `_`): a hint for other tools.

        Raises:
            CorruptDataError: An episode is no longer what was stored; names it. It is left where it is.
            SelectionError: Episodes of another root, or no such column.
            ReadOnlyError: The handle is read-only.
        """
        chosen = choose(self._roots, episodes)
        in_write_root(self._roots, chosen, "compact")
        return compact(self._roots.write, chosen, partition_by)

    def realign(self, episodes: Any = None, align: Align | None = None) -> list[str]:
        """Make the steps of stored episodes anew, by another policy; returns the ids of the episodes whose steps changed.

        What sensors sent stays, as do frames: nothing is lost, and the policy of before brings the steps of before back. Steps,
        `num_steps`, `start_ns`, `duration_s` and statistics become those that recording with this policy would have given;
        `control_hz` becomes its `rate_hz`, or empty where steps changed. Older versions read as before. Many episodes are several commits, of about
        500,000 steps each; one episode is in memory at a time. Realigning again by the same policy changes nothing.

        Args:
            episodes: As in `read_by`; all must lie in the write root. Those that others delete, compact or realign meanwhile, or
                whose `control_hz` they set, are left as they are, and are not among the ids.
            align: How; `None` for the defaults of `fox.Align`. What it says of a feature does not concern episodes that lack it.

        Raises:
            FeatureError: A feature that no episode has, a clock that some have not, a policy that a feature's values do not allow,
                or a `rate_hz` that one stray stamp makes far too many steps of.
            SelectionError: Episodes without times, or of another root.
            CorruptDataError: An episode is no longer what was stored; names it.
            ReadOnlyError: The handle is read-only.
        """
        chosen = choose(self._roots, episodes)
        in_write_root(self._roots, chosen, "realign")
        return realign(self._roots.write, chosen, Align() if align is None else align)

    def derive(
        self,
        episodes: Any = None,
        *,
        image_size: tuple[int, int],
        features: str | Sequence[str] | None = None,
        quality: int | None = None,
    ) -> list[str]:
        """Keep images in another size beside the stored ones, to train faster; returns the ids of the episodes that got some.

        `as_pytorch_dataset(image_size=...)` of the same size reads them instead of decoding and resizing the originals. They are
        resized as it would do it. Cameras that are PNG stay lossless, so items are the same to the bit; those that are JPEG are
        encoded once more, so items differ from those without by what that loses, and from what `train.online()` makes of a
        live picture.

        Originals, values and checksums stay, and all else reads the originals. What is there already is skipped; where it has
        another `quality`, it is made anew. Many episodes are several commits, of about 1 GiB of stored frames each: an
        interrupted call keeps those that were made, and the same call goes on. `compact` and `realign` keep derived frames;
        of damaged ones `repair` lets go. The frames of one row group are in memory.

        Args:
            episodes: As in `read_by`; all must lie in the write root. Those that others delete, compact or realign meanwhile are
                left as they are, and are not among the ids; a line is logged.
            image_size: (height, width), as in `as_pytorch_dataset`.
            features: Names of images; `None` for all. What has the size already is left alone.
            quality: Of JPEG, 1–100; `None` for `fox.config().jpeg_quality`. PNG has none.

        Raises:
            FeatureNotFoundError: A feature that no selected episode has.
            FeatureError: A feature that holds no images.
            SelectionError: Episodes of another root, no size, or no quality.
            CorruptDataError: A frame that cannot be read or decoded; names the episode.
            ReadOnlyError: The handle is read-only.
        """
        from fogx.jobs.derive import derive

        chosen = choose(self._roots, episodes)
        in_write_root(self._roots, chosen, "derive")
        return derive(self._roots.write, chosen, image_size, features, quality)

    def check(self, *, deep: bool = False) -> pd.DataFrame:
        """Look for damage in the write root at its newest version; returns one row a finding, none where all is sound.

        See `fogx.check`, which also takes roots that cannot be opened.

        Args:
            deep: Also read all values: page checksums, frames, the checksums of episodes, statistics; decode every image.
        """
        return check(self.path, deep=deep, storage_options=self._roots.write.store.options.given)

    def repair(self, *, dry_run: bool = False) -> pd.DataFrame:
        """Set damage of the write root aside, save what can be saved, and return what was done; this handle is refreshed.

        See `fogx.repair`, which also takes roots that cannot be opened.

        Args:
            dry_run: Change nothing; say what would be done.

        Raises:
            ReadOnlyError: The handle is read-only.
        """
        self._roots.write.check_writable()
        done = repair(self.path, dry_run=dry_run, storage_options=self._roots.write.store.options.given)
        self.refresh()
        return done

    # Versions

    def history(self) -> pd.DataFrame:
        """Return the commits of the write root, newest first: version, time, operation, episodes, user, pins.

        `time` is by the writer's clock (UTC). It goes back to the oldest version that `vacuum` kept.
        """
        return history_frame(self._roots.write)

    def at(self, version: int | str | datetime) -> Dataset:
        """Return a read-only handle of the dataset as it was at a version: the same rows, steps and frames each time.

        Args:
            version: A number that `history()` lists, or the name of a pin: the write root as of then, other roots as this handle
                sees them. A time with a zone (datetime, or ISO 8601 text), or a `version_token`: all roots as of then.

        Raises:
            UnknownNameError: No such version, or one that was not kept; says which there are.
        """
        handle = Dataset.__new__(Dataset)
        handle._roots, handle._features = self._roots.at(version), dict(self._features)
        handle._recorded = []
        return handle

    def pin(self, name: str, version: int | None = None) -> int:
        """Keep a version of the write root for as long as it has a name, whatever is vacuumed; returns the version.

        Args:
            name: A letter, then up to 63 letters, digits, dots, `-` and `_`. A name that is there moves.
            version: The version to keep; `None` for the one that this handle is at.

        Raises:
            UnknownNameError: No such version, or one that was not kept; a name of another form.
        """
        log = self._roots.write.writable()
        number = log.version if version is None else numbered(log, version)
        log.pin(name, number)
        return number

    def unpin(self, name: str) -> None:
        """Take a pin away; `vacuum` may then remove what only its version needs.

        Raises:
            UnknownNameError: No such pin; lists those there are.
        """
        self._roots.write.writable().pin(name, None)

    def pins(self) -> dict[str, int]:
        """Return name → version of the write root's pins."""
        return self._roots.write.log.pins() if self._roots.write.log else {}

    def restore(self, version: int | str | datetime) -> int:
        """Give the write root the episodes that it had at a version, in a new commit; returns how many it then holds.

        Nothing is lost: what was newest stays a version. Episodes that others add while this runs stay.

        Args:
            version: As in `at`.

        Raises:
            UnknownNameError: No such version, or one that was not kept; says which there are.
        """
        log = self._roots.write.writable()
        return log.restore(numbered(log, version))

    def vacuum(self, older_than_s: float | None = None, *, dry_run: bool = False) -> pd.DataFrame:
        """Remove files of the write root that no kept version needs; returns them: file, bytes, age_s.

        Kept are pinned versions and all that were the newest at some moment of the last `older_than_s`. Deleted episodes, old
        forms of edited tables and what killed processes left go when no kept version needs them.

        Args:
            older_than_s: Remove only files older than this; at least, and by default, the safe age of the dataset (7 days).
            dry_run: Only say what would be removed.

        Raises:
            SelectionError: Less than the safe age, or no number.
            FormatVersionError: The dataset is in a format of before `vacuum`; call `migrate()` first.
            CorruptDataError: What a kept version needs cannot be read; nothing was removed.
        """
        recorded = sealed_files(self._roots.write.store)
        return vacuum_frame(self._roots.write.writable().vacuum(older_than_s, dry_run=dry_run, keep=recorded))

    def migrate(self) -> tuple[int, int]:
        """Bring the write root to the newest storage format; returns the formats before and after.

        No data is rewritten. Writers that do not know the new format are refused from then on, with what to install.
        """
        return self._roots.write.writable().migrate()

    def refresh(self) -> Dataset:
        """Move this handle to the newest version of every root, and return it."""
        self._roots.refresh()
        return self

    # Use

    def export(
        self,
        episodes: Any = None,
        format: str = "rtx",
        path: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Write the selected episodes, in the selection's order, in another format; returns the folder written.

        Streams one episode at a time; encoded cameras are written as they are. The folder appears whole or not at all.

        Args:
            episodes: As in `read_by`; all of one schema.
            format: Name of an exporter: `"rtx"`, `"rlds"` and `"open-x"` write TFDS's RLDS layout.
            path: Folder to write `<name>/<version>` under; `exports/<format>` of the write root by default.
            name: Name of the exported dataset; by default the one most episodes came under.
            options: The format's own; for RLDS `version=` (`"1.0.0"`; without `path` the next free one) and `split=`.

        Raises:
            UnknownPluginError: No such exporter; lists those there are.
            SchemaMismatchError: Episodes of unlike schemas; groups them.
            ExistsError: The folder exists already.
            SelectionError: An empty selection.
        """
        return export_episodes(self._roots.write, choose(self._roots, episodes), format, path, name, options)

    def as_pytorch_dataset(
        self,
        episodes: Any = None,
        *,
        windows: Mapping[str, StepWindow | TimeWindow | Sequence[float]] | None = None,
        features: str | Sequence[str] | None = None,
        level: str = "step",
        rename: Mapping[str, str] | None = None,
        keys: str | None = None,
        where: str | pl.Expr | None = None,
        every: int = 1,
        align: Align | None = None,
        pad: str = "edge",
        image_size: tuple[int, int] | None = None,
        dtype: str = "float32",
        language: str | None = None,
        goals: Mapping[str, str] | None = None,
        relative: Mapping[str, str] | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        normalize: str | os.PathLike[str] | Normalizer | None = None,
        exclude: Mapping[str, Sequence[int]] | None = None,
    ) -> StepDataset:
        """Return a map-style `torch.utils.data.Dataset` over the selected episodes; safe in forked and spawned workers.

        An item is a dict that the default collate takes: tensors, strings, cameras as uint8 (C, H, W) (in channels-last memory), and
        `episode_id` and `step_index`. Features that not all episodes share, or share in another dtype or shape, are left out, which
        is said once; name them in `features` to have them, with `<feature>_is_valid`. Where a step has no value the item has zeros
        and `<feature>_is_valid` is False. `.iterable()` gives the same items as an iterable dataset.

        What is read but images is kept on disk, to be read faster by all processes and next time: see `fox.config(cache_dir=,
        cache_mb=)` and `fox.clear_cache()`.

        Args:
            episodes: As in `read_by`.
            windows: Feature → the steps that items have of it, relative to their own and with a time axis of their number W:
                `{"action": fox.steps(0, 16), "observation/image": fox.steps(-1, 1)}` are 16 actions from now on and the last two
                images. `fox.seconds(start, stop, hz=)`, or a list of times in s, takes for each time the newest step that is not
                later. Windows never leave the episode; `<feature>_is_pad` `(W,)` says where they would.
            features: Names to read; nothing else is read from disk. `None` takes all that the episodes share.
            level: `"step"` for one item a step. `"window"` for stretches as long as the longest window, one after the other, so that
                it has each step once. `"episode"` for one item an episode with a leading time axis; `fogx.training.torch.collate`
                makes batches of these.
            rename: Stored name → name that items, and all other arguments, use.
            keys: `"lerobot"` spells the names of items as LeRobot does (`observation.images.wrist`, `observation.state`, `action`,
                `action_is_pad`, `task`, `timestamp`, `frame_index`, `episode_index`, `index`).
            where: Where items may stand; windows may reach beyond it. The label of segments (see `annotate`), or an expression over
                the columns of steps, as in `pl.col("reward") > 0`, which is evaluated once, here, and reads only what it names.
                With `level="episode"` items have those steps, and episodes that have none are left out.
            every: Keeps each n-th item of an episode.
            align: Makes the steps anew, as in `get_step_data`: once here, to count them, and once for the cache.
            pad: What stands past the ends of an episode: `"edge"` repeats its first or last step, `"zero"` gives zeros and empty
                texts, `"drop"` leaves items out whose windows would leave the episode.
            image_size: (height, width) of images; they are resized, bilinear and with antialias (masks, labels and depth: nearest), the
                pixels those of `torch.nn.functional.interpolate` of uint8 and within 1 of Pillow's; or read where `derive` made them:
                then items of JPEG cameras differ by what its encoding loses.
            dtype: Of all floats: `"float16"`, `"float32"` or `"float64"`.
            language: Adds `language_instruction`: the first, or a random one, of the texts that tell the robot what to do at the
                item's step (features named `language_…`) and the column `task`, of those that are not empty.
            goals: Feature → `"last"` or `"future"`: adds `goal/<feature>`, its value at the episode's last step, or at a random later
                one than the item's.
            relative: Action → state: actions become differences to the state at the item's step, on the leading dimensions that
                both have: `{"action": "observation/state"}`.
            transform: Is given each item and returns it changed; sent to workers, so spawned ones need one that can be pickled.
            normalize: `"mean_std"`, `"quantile"` or `"min_max"` maps float observations and actions by the statistics of these items,
                which are counted here; or a `fox.Normalizer`, or the path of a saved one. It comes last. See `.normalizer`, which
                has the inverse.
            exclude: Feature → dimensions that are not normalised: `{"action": [6]}`.

        Raises:
            FeatureNotFoundError: A name that no selected episode has, or that items do not carry.
            SelectionError: Options that are not known, or do not fit each other; a label that no selected episode has; windows in
                seconds, or `align`, over episodes without times and `control_hz`.
            FeatureError: An `align` that does not fit the features. Features that `relative` cannot subtract; no such way to normalise, or dimension to exclude.
            DatasetNotFoundError, CorruptDataError: A saved normaliser that is not there, or damaged.
            MissingExtraError: `pip install 'fogx[torch]'` is needed.
        """
        from fogx.reading.training import training_data
        from fogx.training.torch import step_dataset

        index, spec = training_data(
            choose(self._roots, episodes),
            windows=windows,
            features=features,
            level=level,
            rename=rename,
            keys=keys,
            where=where,
            every=every,
            align=align,
            pad=pad,
            image_size=image_size,
            dtype=dtype,
            language=language,
            goals=goals,
        )
        return step_dataset(index, spec, level, relative=relative, transform=transform, normalize=normalize, exclude=exclude)

"""Makes frames in the size that training wants, keeps them beside those they are made from, and lets rows point to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from tqdm.auto import tqdm

from fogx import registry
from fogx.codecs.jpeg import JpegCodec
from fogx.errors import CorruptDataError, FeatureError, FeatureNotFoundError, FogxError, SelectionError, did_you_mean, listing
from fogx.feature import Feature
from fogx.jobs.compact import repoint
from fogx.reading.episodes import Located, decoder, locate
from fogx.reading.roots import Chosen, Root
from fogx.reading.training import checked_size, listed_features
from fogx.settings import config
from fogx.storage.files.paths import partition_folder
from fogx.storage.tables.derived import derived_name, derived_places
from fogx.storage.tables.frames import FramesFiles, read_frames
from fogx.storage.tables.index import PARTS, IndexRow, write_index
from fogx.threads import processors
from fogx.training.images import is_smooth, resized

logger = logging.getLogger("fogx")

GROUP_BYTES = 1 << 30
"""Episodes are written and committed together up to about this many bytes of the frames that are read."""

_PIECE = 256
"""Frames that are in memory at once."""

_MANY_BYTES = 64 << 20
"""For frames of so many bytes it is worth the second that PyTorch takes to load."""


@dataclass(frozen=True)
class _Work:
    """What is to be made of one episode.

    Args:
        position: Where it stands in the selection.
        member: The episode, with its places of frames.
        names: Feature → name of its frames in the other size.
    """

    position: int
    member: Located
    names: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """Bytes of the frames that are read for it."""
        frames = self.member.index.frames
        return sum(int(place.lengths.sum(dtype=np.int64)) for place in frames if place.feature in self.names)


def derive(
    root: Root, chosen: Chosen, image_size: tuple[int, int], features: str | Sequence[str] | None, quality: int | None
) -> list[str]:
    """Make frames in another size and return the ids of the episodes that got some; see `Dataset.derive`."""
    size = checked_size(image_size)
    quality = config().jpeg_quality if quality is None else quality
    if isinstance(quality, bool) or not isinstance(quality, (int, np.integer)) or not 1 <= quality <= 100:
        raise SelectionError(f"quality={quality!r}: give a whole number from 1 to 100, or nothing for fox.config().jpeg_quality.")
    quality = int(quality)
    asked = listed_features(features)
    located = locate(chosen, ("frames", "derived"))
    wanted = None if asked is None else _checked(asked, located)
    work = [
        _Work(position, member, names)
        for position, member in enumerate(located)
        if (names := dict(_missing(member, size, wanted, quality)))
    ]
    work.sort(key=lambda one: one.member.episode_id)
    if sum(one.num_bytes for one in work) >= _MANY_BYTES:
        with suppress(ImportError, OSError):  # where it is there and whole, pictures are resized by it, in a tenth of the time
            import torch  # noqa: F401
    done: set[str] = set()
    try:
        with (
            tqdm(total=len(work), desc="derive", unit="episode", disable=not config().progress) as bar,
            ThreadPoolExecutor(processors()) as pool,
        ):
            for group in _groups(work):
                done.update(_derived(root, chosen, group, size, quality, pool, bar.update))
    except FogxError as error:
        if done:
            error.add_note(f"{len(done)} episodes have their frames; the same call goes on with the rest.")
        raise
    if left := len(work) - len(done):
        logger.warning(
            "derive: left %d of %d episodes as they are: others changed them since this handle looked. refresh(), and call again.",
            left,
            len(work),
        )
    return [episode_id for episode_id in chosen.column("episode_id").to_pylist() if episode_id in done]


def _checked(names: Sequence[str], located: Sequence[Located]) -> set[str]:
    """Return names of images, unless some are not.

    Raises:
        FeatureNotFoundError: A name that no episode has.
        FeatureError: A feature that holds no images.
    """
    known: dict[str, Feature] = {}
    for schema in {member.index.schema_id: member.schema for member in located}.values():
        for name, feature in schema.items():
            if name not in known or feature.is_image:
                known[name] = feature
    images = [name for name, feature in known.items() if feature.is_image]
    for name in names if located else ():
        if name not in known:
            raise FeatureNotFoundError(
                f"features= names {name!r}, which no selected episode has; images are: {listing(images)}.{did_you_mean(name, images)}"
            )
        if name not in images:
            raise FeatureError(
                f"features= names {name!r}, {known[name].describe()}, which holds no images; these do: {listing(images)}."
            )
    return set(names)


def _missing(member: Located, size: tuple[int, int], wanted: set[str] | None, quality: int) -> Iterator[tuple[str, str]]:
    """Yield the features of an episode whose frames have another size and are not there in this one, with the name for them."""
    index = member.index
    for name, feature in member.schema.items():
        if (
            not feature.is_image
            or feature.shape is None
            or feature.shape[:2] == size
            or (wanted is not None and name not in wanted)
        ):
            continue
        derived = derived_name(name, size, quality if feature.encoding == "jpeg" else None)
        found = derived_places(index, name, size)
        if index.frames_of(name) and not (found and all(place.feature == derived for place in found)):
            yield name, derived


def _groups(work: Sequence[_Work]) -> Iterator[list[_Work]]:
    group: list[_Work] = []
    size = 0
    for one in work:
        group.append(one)
        size += one.num_bytes
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _derived(
    root: Root,
    chosen: Chosen,
    group: Sequence[_Work],
    size: tuple[int, int],
    quality: int,
    pool: ThreadPoolExecutor,
    tell: Callable[[], object],
) -> list[str]:
    """Write the frames of some episodes, let their rows point there, and return whose do."""
    store = root.store
    files = FramesFiles(store, partition_folder("dataset", root.name))
    try:
        with store.writing(f"frames of {len(group)} episodes"):
            for one in group:
                for feature, name in sorted(one.names.items(), key=lambda names: names[1]):
                    for first, blobs in _made(one.member, feature, size, quality, pool):
                        files.add(one.member.episode_id, name, blobs, first_frame=first)
                tell()
            files.close()
            members = locate(chosen.at(np.array([one.position for one in group])), PARTS)
            rows = [_with_derived(one, member.index, size, files) for one, member in zip(group, members, strict=True)]
            files.files.append(pointer := write_index(store, rows))  # it goes with them where they cannot be made durable
            store.sync(files.files)
    except BaseException:
        files.abort()
        raise
    return repoint(root, members, pointer, "derive")


def _with_derived(one: _Work, index: IndexRow, size: tuple[int, int], files: FramesFiles) -> IndexRow:
    """Return an index row with the frames that were made, in the place of those of another quality."""
    old = {place.feature for feature in one.names for place in derived_places(index, feature, size)}
    kept = [place for place in index.derived if place.feature not in {*old, *one.names.values()}]
    derived = sorted([*kept, *files.places[index.episode_id]], key=lambda place: (place.feature, place.first_frame))
    return replace(index, derived=derived)


def _made(
    member: Located, name: str, size: tuple[int, int], quality: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield frames of one feature in another size, some at a time, with the number of the first of them."""
    feature, places = member.schema[name], member.index.frames_of(name)
    decode, smooth = decoder(feature), is_smooth(name, feature)
    encode = JpegCodec(quality).encode if feature.encoding == "jpeg" else registry.get("codecs", str(feature.encoding)).encode

    def make(number: int, blob: bytes) -> bytes:
        try:
            pixels = decode(blob)
        except (CorruptDataError, FeatureError) as error:
            raise CorruptDataError(
                f"{member.root.path}: episode {member.episode_id}: frame {number} of {name!r} cannot be decoded: {error} Leave the "
                "episode out of episodes=, or the feature out of features=."
            ) from error
        # What has the size already is taken as it is: encoding it again would change it.
        made: bytes = blob if pixels.shape[:2] == size else encode(resized(pixels, size, smooth=smooth))
        return made

    count = sum(len(place.lengths) for place in places)
    for first in range(0, count, _PIECE):
        numbers = np.arange(first, min(first + _PIECE, count))
        yield first, list(pool.map(make, numbers.tolist(), read_frames(member.root.store, places, numbers)))

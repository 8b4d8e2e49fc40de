"""The cases of training.py, each in a process of its own: `python training_cases.py READER CASE FOLDER WORKERS SECONDS` prints JSON.

`python training_cases.py prepare READER FOLDER` writes the frames of `FOLDER/frames.h5` as a reader wants them, once. Imports fogx in
fogx's own cases only: LeRobot's run in another Python.
"""

import io
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
FPS = 30
BUFFER = 500
"""Items that the readers of streams shuffle among."""
CAMERAS = ("front", "wrist")
WARM = 6
"""Batches before those that are measured: two workers have read four ahead, which must not count."""


@dataclass(frozen=True)
class Case:
    """An item: offsets of steps from its own, of each feature.

    Args:
        frames: Of each of the two cameras.
        states: Of the state.
        actions: Of the action.
        side: Pixels of a side that frames are scaled to, if they are.
        together: Random steps of one episode that follow one another in a batch.
        in_order: Items come one after the other, not at random.
    """

    frames: Sequence[int] = (0,)
    states: Sequence[int] = (0,)
    actions: Sequence[int] = (0,)
    side: int | None = None
    together: int = 1
    in_order: bool = False

    @property
    def size(self) -> str:
        """Return which frames it is of."""
        return "480" if self.side else "256"

    @property
    def offsets(self) -> dict[str, Sequence[int]]:
        """Return feature → offsets, of features that are read."""
        given = {**dict.fromkeys(CAMERAS, self.frames), "state": self.states, "action": self.actions}
        return {name: offsets for name, offsets in given.items() if len(offsets)}


CASES = {
    "step": Case(),
    "window": Case((-1, 0), (-1, 0), range(16)),
    "window 480": Case((-1, 0), (-1, 0), range(16), side=224),
    "actions": Case((), (), range(16)),
    "16 an episode": Case(together=16),
    "sequential": Case(in_order=True),
}


def batch_of_items(case: Case, starts: np.ndarray) -> Iterator[list[int]]:
    """Yield without end the steps of a batch, the same for all that choose steps. `starts` are rows of episodes, and the end."""
    random = np.random.default_rng(0)
    for number in itertools.count():
        if case.in_order:
            yield (np.arange(number * BATCH, (number + 1) * BATCH) % starts[-1]).tolist()
        elif case.together == 1:
            yield random.integers(0, starts[-1], BATCH).tolist()
        else:
            chosen = random.integers(0, len(starts) - 1, BATCH // case.together)
            yield np.concatenate([random.integers(starts[e], starts[e + 1], case.together) for e in chosen]).tolist()


def pictures(blobs: Sequence[bytes], side: int | None, shape: tuple[int, ...]) -> np.ndarray:
    """Decode and scale as fogx does, straight into the batch, and each object once: `(*shape, C, H, W)`."""
    from simplejpeg import decode_jpeg, decode_jpeg_header  # type: ignore[import-untyped]

    height, width = decode_jpeg_header(blobs[0])[:2]
    out = np.empty((len(blobs), side or height, side or width, 3), np.uint8)
    seen: dict[int, int] = {}
    for place, blob in enumerate(blobs):
        first = seen.setdefault(id(blob), place)
        if first != place:
            out[place] = out[first]
        elif side is None:
            decode_jpeg(blob, fastdct=True, fastupsample=False, buffer=out[place])
        else:
            out[place] = scaled(decode_jpeg(blob, fastdct=True, fastupsample=False), side)
    return np.moveaxis(out.reshape(*shape, *out.shape[1:]), -1, -3)


def scaled(picture: np.ndarray, side: int) -> np.ndarray:
    import torch

    batch = torch.from_numpy(picture).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(batch, (side, side), mode="bilinear", antialias=True)
    found: np.ndarray = small[0].permute(1, 2, 0).numpy()
    return found


class Rows:
    """Items of steps that lie one after the other, a batch at once. Each process opens files of its own."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case = folder, case
        self.starts = np.load(folder / "starts.npy")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitems__(self, items: list[int]) -> dict[str, Any]:
        import torch

        batch = {}
        anchors, owner = np.array(items)[:, None], np.searchsorted(self.starts, items, "right")[:, None]
        for name, offsets in self.case.offsets.items():
            wanted = anchors + np.array(offsets)
            rows = np.clip(wanted, self.starts[owner - 1], self.starts[owner] - 1)
            batch[f"{name}_is_pad"] = rows != wanted
            batch[name] = self.frames(name, rows) if name in CAMERAS else self.numbers(name, rows)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def frames(self, name: str, rows: np.ndarray) -> np.ndarray:
        unique, back = np.unique(rows, return_inverse=True)
        blobs = self.blobs(name, unique)
        return pictures([blobs[number] for number in back.ravel().tolist()], self.case.side, rows.shape)

    def blobs(self, name: str, rows: np.ndarray) -> Sequence[bytes]:
        """Return the frames of rows, which rise."""
        raise NotImplementedError

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Hdf5(Rows):
    """h5py: a data set a feature, frames as bytes of JPEG."""

    _file: Any = None

    @property
    def file(self) -> Any:
        if self._file is None:
            import h5py  # type: ignore[import-untyped]

            self._file = h5py.File(self.folder / "frames.h5")
        return self._file

    def blobs(self, name: str, rows: np.ndarray) -> Sequence[bytes]:
        data = self.file[name]
        return [data[row].tobytes() for row in rows.tolist()]

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        data = self.file[name]
        return np.stack([data[own[0] : own[-1] + 1][own - own[0]] for own in rows])


class Lance(Rows):
    """Lance: a row a step; a batch is one `take` a feature."""

    _table: Any = None

    def taken(self, name: str, rows: np.ndarray) -> Any:
        if self._table is None:
            import lance  # type: ignore[import-not-found]

            self._table = lance.dataset(str(self.folder / "lance"))
        return self._table.take(rows, columns=[name])[name].combine_chunks()

    def blobs(self, name: str, rows: np.ndarray) -> Sequence[bytes]:
        blobs: list[bytes] = self.taken(name, rows).to_pylist()
        return blobs

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        unique, back = np.unique(rows, return_inverse=True)
        found = self.taken(name, unique)
        values: np.ndarray = found.flatten().to_numpy().reshape(len(unique), -1)
        return values[back.reshape(rows.shape)]


class Memory(Rows):
    """The limit: bytes of JPEG in memory are decoded, nothing else is done."""

    def __init__(self, folder: Path, case: Case) -> None:
        super().__init__(folder, case)
        source = Hdf5(folder, case)
        self._blobs = {name: source.blobs(name, np.arange(len(self))) for name in CAMERAS}
        self.case = Case(case.frames, (), (), case.side, case.together)

    def blobs(self, name: str, rows: np.ndarray) -> Sequence[bytes]:
        return [self._blobs[name][row] for row in rows.tolist()]


class Memmap(Rows):
    """The limit without a codec: `np.memmap` of decoded (and scaled) frames, numbers in memory."""

    def __init__(self, folder: Path, case: Case) -> None:
        super().__init__(folder, case)
        source = Hdf5(folder, case)
        self._numbers = {name: source.file[name][:] for name in ("state", "action")}
        self._frames = {name: np.load(folder / f"{name}_{case.side}.npy", mmap_mode="r") for name in CAMERAS}

    def frames(self, name: str, rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.asarray(self._frames[name][rows]), -1, -3)

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        values: np.ndarray = self._numbers[name][rows]
        return values


class Stream:
    """WebDataset: a shard an episode, a sample a step. Windows are cut of an episode's samples, shuffled as bytes, and decoded last."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case = folder, case

    def dataset(self) -> Any:
        import webdataset  # type: ignore[import-not-found]

        shards = sorted(map(str, (self.folder / "web").glob("*.tar")))
        if self.case.in_order:
            items = webdataset.WebDataset(shards, shardshuffle=False).compose(self.items)
            return items.batched(BATCH, collation_fn=self.batch, partial=False).repeat()
        items = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).compose(self.items)
        if self.case.together == 1:
            items = items.shuffle(BUFFER, initial=BUFFER)
        return items.batched(BATCH, collation_fn=self.batch)

    def items(self, samples: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield for each item its samples, one an offset of the longest window."""
        episode: list[dict[str, Any]] = []
        for sample in samples:
            if episode and sample["__url__"] + sample["__key__"][:6] != episode[-1]["__url__"] + episode[-1]["__key__"][:6]:
                yield from self.windows(episode)
                episode = []
            episode.append(sample)

    def windows(self, episode: list[dict[str, Any]]) -> Iterator[Any]:
        several = self.case.together > 1
        for anchor in np.random.randint(0, len(episode), self.case.together).tolist() if several else range(len(episode)):
            item = {}
            for name, offsets in self.case.offsets.items():
                wanted = anchor + np.array(offsets)
                steps = np.clip(wanted, 0, len(episode) - 1)
                key = f"{name}.jpg" if name in CAMERAS else f"{name}.npy"
                item[name] = [episode[step][key] for step in steps.tolist()]
                item[f"{name}_is_pad"] = steps != wanted
            yield item

    def batch(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch = {}
        for name in items[0]:
            if name.endswith("_is_pad"):
                batch[name] = np.stack([item[name] for item in items])
                continue
            values, shape = [value for item in items for value in item[name]], (len(items), len(items[0][name]))
            if name in CAMERAS:
                batch[name] = pictures(values, self.case.side, shape)
            else:  # the bytes of an .npy: its header has 128 of them
                batch[name] = np.frombuffer(b"".join(value[128:] for value in values), np.float32).reshape(*shape, -1)
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def _same(batch: Any) -> Any:
    return batch


def loaded(dataset: Any, workers: int, **options: Any) -> Iterator[Any]:
    """Return the batches of PyTorch's loader."""
    from torch.utils.data import DataLoader

    return iter(DataLoader(dataset, num_workers=workers, **options))


def by_rows(make: Callable[[Path, Case], Rows], **options: Any) -> Callable[[Path, Case, int], Iterator[Any]]:
    """Return a reader of random rows."""

    def read(folder: Path, case: Case, workers: int) -> Iterator[Any]:
        rows = make(folder, case)
        own = options if workers else {}
        return loaded(rows, workers, batch_sampler=batch_of_items(case, rows.starts), collate_fn=_same, **own)

    return read


def in_threads(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    """The limit of fogx' loader without workers: a thread a processor decodes batches ahead, each a whole one."""
    rows = Memory(folder, case)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    decoders, decoding = ThreadPoolExecutor(threads), deque[Future[Any]]()
    for items in batch_of_items(case, rows.starts):
        decoding.append(decoders.submit(rows.__getitems__, items))
        if len(decoding) > threads:
            yield decoding.popleft().result()


class Given:
    """The order of the others, for fogx' loader."""

    def __init__(self, case: Case, starts: np.ndarray) -> None:
        self._batches = batch_of_items(case, starts)
        self._items = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return 1 << 40

    def items(self, seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        more = -(-(int(positions[-1]) + 1 - len(self._items)) // BATCH)
        if more > 0:
            self._items = np.concatenate([self._items, *itertools.islice(self._batches, max(more, len(self._items) // BATCH))])
        return self._items[positions]


def fogx(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    """`as_pytorch_dataset` in fogx' loader, with the same sampler as the others."""
    from fogx.training.loader import Loader
    from fogx.training.torch import collate

    order = Given(case, np.load(folder / "starts.npy"))
    return iter(Loader(_items(str(folder / "root"), case), order, BATCH, workers, collate_fn=collate))


def fogx_in_torch(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    """`as_pytorch_dataset` in PyTorch's loader, which reads nothing ahead where it has no workers."""
    from fogx.training.torch import collate

    sampler = batch_of_items(case, np.load(folder / "starts.npy"))
    return loaded(_items(str(folder / "root"), case), workers, batch_sampler=sampler, collate_fn=collate)


def fogx_derived(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    """The same, where `derive` has kept frames in the size that is asked for."""
    return fogx(folder / "derived", case, workers)


def fogx_s3(root: str, own_order: bool) -> Callable[[Path, Case, int], Iterator[Any]]:
    """Return a reader of `root` in S3: in the order of the others, or in that of `loader`, which keeps what lies together together."""

    def read(folder: Path, case: Case, workers: int) -> Iterator[Any]:
        from fogx.training.torch import collate

        items = _items(root, case)
        if own_order:
            loader = items.loader(BATCH, workers)
            return itertools.chain.from_iterable(itertools.repeat(loader))
        return loaded(items, workers, batch_sampler=batch_of_items(case, np.load(folder / "starts.npy")), collate_fn=collate)

    return read


def _items(root: str, case: Case) -> Any:
    import fogx as fox

    fox.config(progress=False)
    windows = {name: fox.steps(list(offsets)) for name, offsets in case.offsets.items() if len(offsets) > 1}
    size = None if case.side is None else (case.side, case.side)
    return fox.Dataset(root).as_pytorch_dataset(windows=windows, features=list(case.offsets), image_size=size)


def lerobot(kind: str) -> Callable[[Path, Case, int], Iterator[Any]]:
    """Return LeRobot's own dataset with `delta_timestamps`; it reads all cameras, whatever is asked for."""

    def read(folder: Path, case: Case, workers: int) -> Iterator[Any]:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]
        from torchvision.transforms.v2 import Resize  # type: ignore[import-not-found]

        deltas = {_lerobot_name(name): [offset / FPS for offset in offsets] for name, offsets in case.offsets.items()}
        resize = None if case.side is None else Resize((case.side, case.side), antialias=True)
        dataset = LeRobotDataset(
            "bench/training", root=folder / f"lerobot_{kind}", delta_timestamps=deltas, image_transforms=resize
        )
        return loaded(dataset, workers, batch_sampler=batch_of_items(case, np.load(folder / "starts.npy")))

    return read


def _lerobot_name(name: str) -> str:
    return f"observation.images.{name}" if name in CAMERAS else "action" if name == "action" else "observation.state"


def webdataset(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    return loaded(Stream(folder, case).dataset(), workers, batch_size=None)


def rlds(decode_first: bool) -> Callable[[Path, Case, int], Iterator[Any]]:
    """Return TFDS with a shuffle buffer, of decoded windows, or (as Octo does it) of windows that are decoded when they leave it."""

    def read(folder: Path, case: Case, workers: int) -> Iterator[Any]:
        import tensorflow as tf  # type: ignore[import-untyped]
        import tensorflow_datasets as tfds  # type: ignore[import-untyped]

        threads = max(1, workers)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        (place,) = (folder / "rlds").glob("*/1.0.0")
        builder = tfds.builder_from_directory(str(place))
        skipped = {"steps": {name: tfds.decode.SkipDecoding() for name in CAMERAS}}

        def decoded(blob: Any) -> Any:
            picture = tf.io.decode_jpeg(blob, channels=3)
            if case.side is None:
                return picture
            return tf.cast(tf.round(tf.image.resize(picture, (case.side, case.side), antialias=True)), tf.uint8)

        def pictures_of(values: dict[str, Any]) -> dict[str, Any]:
            made = {}
            for name, value in values.items():
                flat = tf.reshape(value, [-1]) if name in CAMERAS else value
                if name in CAMERAS:
                    made[name] = tf.map_fn(decoded, flat, fn_output_signature=tf.uint8)
                else:
                    made[name] = value
            return made

        def items(episode: dict[str, Any]) -> Any:
            count = tf.shape(episode["action"])[0]
            several = case.together > 1
            anchors = tf.random.uniform([case.together], 0, count, tf.int32) if several else tf.range(count)
            made = {}
            for name, offsets in case.offsets.items():
                wanted = anchors[:, None] + tf.constant(list(offsets))[None]
                steps = tf.clip_by_value(wanted, 0, count - 1)
                made[name], made[f"{name}_is_pad"] = tf.gather(episode[name], steps), steps != wanted
            return tf.data.Dataset.from_tensor_slices(made)

        data = builder.as_dataset(split="train", decoders=skipped, shuffle_files=not case.in_order).repeat()
        data = data.flat_map(lambda episode: episode["steps"].batch(1 << 20))
        data = data.map(lambda steps: {name: steps[name] for name in case.offsets} | {"action": steps["action"]})
        if decode_first:
            data = data.map(pictures_of)
        data = data.flat_map(items)
        if case.together == 1 and not case.in_order:
            data = data.shuffle(BUFFER)
        if not decode_first:
            data = data.map(pictures_of, num_parallel_calls=threads)
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        return iter(data.batch(BATCH).prefetch(2).with_options(options).as_numpy_iterator())

    return read


def dlimp(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    """dlimp's data set as Octo uses it: windows of bytes, shuffled among as many as the others, decoded by its functions as they leave."""
    import dlimp as dl  # type: ignore[import-not-found]
    import tensorflow as tf
    import tensorflow_datasets as tfds

    threads = max(1, workers)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    (place,) = (folder / "rlds").glob("*/1.0.0")

    def windows(episode: dict[str, Any]) -> dict[str, Any]:
        count, made = tf.shape(episode["action"])[0], {}
        for name, offsets in case.offsets.items():
            wanted = tf.range(count)[:, None] + tf.constant(list(offsets))[None]
            steps = tf.clip_by_value(wanted, 0, count - 1)
            made[name], made[f"{name}_is_pad"] = tf.gather(episode[name], steps), steps != wanted
        return made

    def frames(one: dict[str, Any]) -> dict[str, Any]:
        decoded = dl.transforms.decode_images(one, match=CAMERAS)
        return decoded if case.side is None else dl.transforms.resize_images(decoded, match=CAMERAS, size=(case.side, case.side))

    def decoded(item: dict[str, Any]) -> dict[str, Any]:
        cameras = {name: item[name] for name in CAMERAS if name in item}
        return item | (dl.vmap(frames)(cameras) if cameras else {})

    data = dl.DLataset.from_rlds(tfds.builder_from_directory(str(place)), split="train")
    data = data.repeat().traj_map(windows).flatten().shuffle(BUFFER).frame_map(decoded).batch(BATCH)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return iter(data.with_options(options).iterator())


def tensors(folder: Path, case: Case, workers: int) -> Iterator[Any]:
    """The limit of numbers: a `TensorDataset` in memory that holds all windows already, in the same loader."""
    import torch

    source = Hdf5(folder, Case((), case.states, case.actions))
    batch = source.__getitems__(list(range(len(source))))
    dataset = torch.utils.data.TensorDataset(*batch.values())
    # As a sampler of batches, so that it is asked for a whole batch at once: item for item it would be many times slower.
    batches = loaded(dataset, workers, sampler=batch_of_items(case, source.starts), batch_size=None)
    return (dict(zip(batch, values, strict=True)) for values in batches)


READERS: dict[str, Callable[[Path, Case, int], Iterator[Any]]] = {
    "fogx": fogx,
    "fogx, torch's loader": fogx_in_torch,
    "fogx, derived": fogx_derived,
    "decode only": by_rows(Memory),
    "decode only, threads": in_threads,
    "memmap": by_rows(Memmap),
    "TensorDataset": tensors,
    "HDF5": by_rows(Hdf5),
    "WebDataset": webdataset,
    "Lance": by_rows(Lance, multiprocessing_context="spawn"),  # its threads do not survive a fork
    "RLDS": rlds(decode_first=True),
    "RLDS, Octo's way": rlds(decode_first=False),
    "dlimp": dlimp,
    "LeRobot video": lerobot("video"),
    "LeRobot image": lerobot("image"),
}


def prepare_lerobot(folder: Path, kind: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    source = Hdf5(folder, CASES["step"])
    first = source.frames("front", np.zeros((1, 1), np.int64))
    features: dict[str, Any] = {
        _lerobot_name(name): {"dtype": kind, "shape": (*first.shape[-2:], 3), "names": ["height", "width", "channels"]}
        for name in CAMERAS
    }
    for name in ("state", "action"):
        features[_lerobot_name(name)] = {"dtype": "float32", "shape": source.file[name].shape[1:], "names": None}
    out = folder / f"lerobot_{kind}"
    dataset = LeRobotDataset.create("bench/training", FPS, features, root=out, use_videos=kind == "video", image_writer_threads=4)
    for start, stop in zip(source.starts[:-1], source.starts[1:], strict=True):
        for row in range(start, stop):
            views = {_lerobot_name(name): np.moveaxis(source.frames(name, np.array([[row]]))[0, 0], 0, -1) for name in CAMERAS}
            numbers = {_lerobot_name(name): source.file[name][row] for name in ("state", "action")}
            dataset.add_frame({**views, **numbers, "task": "put the bottle upright"})
        dataset.save_episode()
    dataset.finalize()


def prepare_web(folder: Path) -> None:
    source = Hdf5(folder, CASES["step"])
    (folder / "web").mkdir()
    for number, (start, stop) in enumerate(zip(source.starts[:-1], source.starts[1:], strict=True)):
        with tarfile.open(folder / "web" / f"{number:04}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(start, stop):
                parts = {f"{name}.jpg": source.file[name][row].tobytes() for name in CAMERAS}
                for name in ("state", "action"):
                    written = io.BytesIO()
                    np.save(written, source.file[name][row])
                    parts[f"{name}.npy"] = written.getvalue()
                for name, blob in parts.items():
                    about = tarfile.TarInfo(f"{number:06}_{row - start:06}.{name}")
                    about.size = len(blob)
                    tar.addfile(about, io.BytesIO(blob))


def prepare_lance(folder: Path) -> None:
    import lance
    import pyarrow as pa

    source = Hdf5(folder, CASES["step"])

    def part(rows: np.ndarray) -> Any:
        columns = {name: pa.array(source.blobs(name, rows), pa.binary()) for name in CAMERAS}
        for name in ("state", "action"):
            values = source.file[name][rows[0] : rows[-1] + 1]
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        return pa.record_batch(columns)

    parts = (part(np.arange(first, min(first + 1000, len(source)))) for first in range(0, len(source), 1000))
    lance.write_dataset(parts, str(folder / "lance"), schema=part(np.arange(1)).schema)


def prepare_rlds(folder: Path) -> None:
    import fogx as fox

    fox.config(progress=False)
    if not (folder / "rlds").exists():  # several readers share it
        fox.Dataset(folder / "root").export(format="rtx", path=folder / "rlds", name="frames")


def prepare_derived(folder: Path) -> None:
    import fogx as fox

    fox.config(progress=False)
    shutil.copytree(folder / "root", folder / "derived" / "root")
    shutil.copy(folder / "starts.npy", folder / "derived")
    for side in {case.side for case in CASES.values() if case.side and case.size == folder.name}:
        fox.Dataset(folder / "derived" / "root").derive(image_size=(side, side))


def prepare_memmap(folder: Path) -> None:
    case = next(case for case in CASES.values() if case.frames and case.size == folder.name)
    source = Hdf5(folder, case)
    copies = int(source.file.attrs["copies"])
    for name in CAMERAS:
        values = np.moveaxis(source.frames(name, np.arange(len(source) // copies)), -3, -1)
        shape = (len(source), *values.shape[1:])
        written = np.lib.format.open_memmap(folder / f"{name}_{case.side}.npy", "w+", np.uint8, shape)
        for first in range(0, len(source), len(values)):
            written[first : first + len(values)] = values


S3_ROOT = "s3://training/root"
S3_READERS = {"S3, at random": fogx_s3(S3_ROOT, own_order=False), "S3, fogx' loader": fogx_s3(S3_ROOT, own_order=True)}

PREPARE: dict[str, Callable[[Path], None]] = {
    "fogx, derived": prepare_derived,
    "memmap": prepare_memmap,
    "WebDataset": prepare_web,
    "Lance": prepare_lance,
    "RLDS": prepare_rlds,
    "RLDS, Octo's way": prepare_rlds,
    "dlimp": prepare_rlds,
    "LeRobot video": lambda folder: prepare_lerobot(folder, "video"),
    "LeRobot image": lambda folder: prepare_lerobot(folder, "image"),
}


def measured(reader: str, case: Case, folder: Path, workers: int, seconds: float) -> dict[str, Any]:
    """Read batches for some seconds, and return what an item took."""
    if not reader.startswith(("RLDS", "dlimp")):
        import torch

        torch.set_num_threads(1)
    opening = time.perf_counter()
    batches = (READERS | S3_READERS)[reader](folder, case, workers)
    sizes = _sizes(next(batches), case)
    first = time.perf_counter() - opening
    for _ in range(WARM - 1):
        next(batches)
    waits: list[float] = []
    began, cpu, disk = time.perf_counter(), _cpu(), _disk()
    while len(waits) < 4 or time.perf_counter() - began < seconds:
        called = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - called)
    wall, items = time.perf_counter() - began, BATCH * len(waits)
    return {
        "rate": items / wall, "cpu": 1e3 * (_cpu() - cpu) / items, "p50": 1e3 * float(np.median(waits)),
        "p99": 1e3 * float(np.quantile(waits, 0.99)), "first": first, "disk": (_disk() - disk) / 1024 / items, **sizes,
    }  # fmt: skip


def _sizes(batch: dict[str, Any], case: Case) -> dict[str, int]:
    """Return how many numbers of frames and of actions an item has, which must be the same for all."""
    frames = sum(int(np.prod(values.shape)) for name, values in batch.items() if name.endswith(CAMERAS)) if case.frames else 0
    return {"pixels": frames // BATCH, "actions": int(np.prod(batch["action"].shape)) // BATCH if "action" in batch else 0}


def _cpu() -> float:
    """Return CPU seconds of this process and of its workers, which live."""
    used = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def _disk() -> int:
    """Return bytes that came from a disk, and not out of the page cache, for this process and its workers."""
    own = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    return sum(int(Path(f"/proc/{pid}/io").read_text().split("\nread_bytes:")[1].split()[0]) for pid in own)


def first_batch(path: str) -> dict[str, float]:
    """Return seconds to open, to plan and to have the first random batch, and the memory of the process."""
    told, began = {}, time.perf_counter()

    def note(name: str) -> None:
        nonlocal began
        told[name] = time.perf_counter() - began
        began = time.perf_counter()

    import torch  # noqa: F401

    import fogx as fox

    fox.config(progress=False)
    dataset = fox.Dataset
    note("import torch and fogx")
    handle = dataset(path)
    note("open")
    items = handle.as_pytorch_dataset(features=["action"], windows={"action": fox.steps(0, 16)})
    note("as_pytorch_dataset")
    random = np.random.default_rng(0)
    items.__getitems__(random.integers(0, len(items), 256).tolist())
    note("first batch of 256 random items")
    for _ in range(20):
        items.__getitems__(random.integers(0, len(items), 256).tolist())
    told["next batch"] = (time.perf_counter() - began) / 20
    began = time.perf_counter()
    batches = iter(items.loader(256, 2, multiprocessing_context="spawn"))
    next(batches)
    note("first batch of 2 spawned workers")
    workers = [worker.pid for worker in multiprocessing.active_children() if worker.pid]
    for _ in range(100):
        next(batches)
    told |= {f"memory of a worker, {name}, MiB": max(_status(pid, field) for pid in workers) for name, field in MEMORY.items()}
    told["memory of this process, own, MiB"] = _status(os.getpid(), "RssAnon")
    return told


MEMORY = {"own": "RssAnon", "with mapped files": "VmRSS"}


def _status(pid: int, field: str) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def main() -> None:
    what, *given = sys.argv[1:]
    if what == "prepare":
        PREPARE[given[0]](Path(given[1]))
    elif what == "first":
        print(json.dumps(first_batch(given[0])))
    else:
        case, folder, workers, seconds = given
        print(json.dumps(measured(what, CASES[case], Path(folder), int(workers), float(seconds))), flush=True)
        # Readers without an end leave workers and threads in the middle of a batch; nothing of theirs is kept.
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        os._exit(0)


if __name__ == "__main__":
    main()

"""The cases of import_export.py, each run in a process of its own: `python cases.py CASE SOURCE OUT` prints one line of JSON."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any


class Clock:
    """Wall and CPU seconds of the parts of this process that are measured; CPU seconds count all threads."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += _cpu() - cpu


def copy(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    with clock.running():
        out.mkdir(parents=True)
        for path in source.iterdir():
            shutil.copyfile(path, out / path.name)
            _fsync(out / path.name)
        _fsync(out)
    return {}


def fogx_import(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    import fogx as fox

    with clock.running():
        dataset = fox.Dataset(out)
        added = dataset.load_rtx_episodes(source)
    return {"episodes": len(added), "steps": int(dataset.get_episode_info()["num_steps"].sum())}


def tfds_loop(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """Every step decoded, with the two loops that TFDS's documentation of RLDS shows."""
    import tensorflow_datasets as tfds

    episodes = steps = 0
    with clock.running():
        for episode in _read(tfds.builder_from_directory(source), decode=True):
            episodes += 1
            for _ in episode["steps"]:
                steps += 1
    return {"episodes": episodes, "steps": steps}


def tfds_batched(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """Every step decoded, kept inside tf.data: flattened, batched and prefetched."""
    return _flattened(source, clock, decode=True)


def tfds_encoded(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """As `tfds_batched`, but images are left encoded, as fogx leaves them; nothing is written."""
    return _flattened(source, clock, decode=False)


def fogx_export(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    import fogx as fox

    with clock.running():
        folder = fox.Dataset(source).export(format="rtx", path=out, name="bench")
    return _written(Path(folder))


def tfds_write_decoded(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """`SequentialWriter` given decoded images, as a converter has them; making them is not measured."""
    return _sequential(source, out, clock, decode=True)


def tfds_write_encoded(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """`SequentialWriter` given the images' encoded bytes, which it takes as they are; reading them is not measured."""
    return _sequential(source, out, clock, decode=False)


def fogx_read(source: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """Random single frames three ways, and a group-by over all steps. Reads the page cache, not the disk."""
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    import fogx as fox
    from fogx.codecs.header import image_format
    from fogx.registry import get
    from fogx.storage.files.store import Store
    from fogx.storage.tables.frames import read_frames
    from fogx.storage.tables.index import read_index

    dataset = fox.Dataset(source)
    store, indices = Store(source), []
    for file in sorted((source / "index").glob("*.parquet")):
        pointer = str(file.relative_to(source))
        indices += read_index(store, pointer, range(pq.ParquetFile(file).metadata.num_rows))
    feature = indices[0].frames[0].feature
    runs = [index.frames_of(feature) for index in indices]
    random = np.random.default_rng(0)
    picks = []
    for episode in random.integers(len(runs), size=5_000):
        picks.append((runs[episode], random.integers(sum(len(place.lengths) for place in runs[episode]))))

    def per_second(work: Callable[[Any], Any], items: list[Any]) -> float:
        began = time.perf_counter()
        for item in items:
            work(item)
        return len(items) / (time.perf_counter() - began)

    def through_parquet(pick: Any) -> bytes:
        places, number = pick
        place = next(p for p in places if p.first_frame <= number < p.first_frame + len(p.lengths))
        group = pq.ParquetFile(source / place.file).read_row_group(place.row_group, columns=["data"])
        return bytes(group["data"][int(place.first_row + number - place.first_frame)].as_py())

    def known_offset(pick: Any) -> bytes:
        return read_frames(store, pick[0], np.array([pick[1]]))[0]

    for pick in picks[:20]:
        if known_offset(pick) != through_parquet(pick):
            raise AssertionError("the two ways to read a frame differ")
    blobs = [known_offset(pick) for pick in picks[:1_000]]
    shape = dataset.episodes[0].schema[feature]
    codec = get("codecs", image_format(blobs[0]) or "")
    with clock.running():
        found = {
            "known offset frames/s": per_second(known_offset, picks),
            "row group frames/s": per_second(through_parquet, picks[:50]),
            "decode frames/s": per_second(lambda blob: codec.decode(blob, shape), blobs),
        }
        began = time.perf_counter()
        grouped = (
            dataset.get_step_data().group_by("episode_id").agg(pl.col("step_index").max(), pl.col("action").arr.first().mean())
        )
        found["group-by episodes"] = len(grouped.collect())
        found["group-by s"] = time.perf_counter() - began
    return found


def _flattened(source: Path, clock: Clock, *, decode: bool) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    steps = 0
    with clock.running():
        read = _read(tfds.builder_from_directory(source), decode=decode).flat_map(lambda episode: episode["steps"])
        for batch in read.batch(64).prefetch(2):
            steps += len(batch["is_first"])
    return {"steps": steps}


def _sequential(source: Path, out: Path, clock: Clock, *, decode: bool) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(source)
    identity = tfds.core.dataset_info.DatasetIdentity(name="bench", version="1.0.0", data_dir=str(out), module_name="bench")
    info = tfds.core.DatasetInfo(builder=identity, features=builder.info.features)
    out.mkdir(parents=True)
    with clock.running():
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=100)
        writer.initialize_splits(["train"])
    for episode in _read(builder, decode=decode):
        steps = list(tfds.as_numpy(episode.pop("steps")))
        example = {**tfds.as_numpy(episode), "steps": steps}
        with clock.running():
            writer.add_examples({"train": [example]})
    with clock.running():
        writer.close_all()
    return _written(out)


def _read(builder: Any, *, decode: bool) -> Any:
    import tensorflow_datasets as tfds

    # Datasets under 250 MB would be cached in memory, and small runs measure something else.
    config = tfds.ReadConfig(try_autocache=False)
    decoders = None if decode else _skipping(builder.info.features)
    return builder.as_dataset(split="train", decoders=decoders, read_config=config)


def _skipping(features: Any) -> Any:
    """Return `decoders=` that leave every image of the steps encoded."""
    import tensorflow_datasets as tfds

    def skip(feature: Any) -> Any:
        if isinstance(feature, tfds.features.Image):
            return tfds.decode.SkipDecoding()
        if not isinstance(feature, tfds.features.FeaturesDict):
            return None
        return {name: found for name, inner in feature.items() if (found := skip(inner)) is not None} or None

    return {"steps": skip(features["steps"].feature)}


def _written(folder: Path) -> dict[str, Any]:
    info = json.loads((folder / "dataset_info.json").read_text())
    return {"episodes": sum(int(n) for split in info["splits"] for n in split["shardLengths"])}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _import_all(case: str) -> None:
    # A program pays for its imports once, not per gigabyte: they are told apart.
    if case.startswith("fogx"):
        import fogx as fox

        for name in ("dataset", "formats.rtx.loader", "formats.rtx.exporter"):
            import_module(f"fogx.{name}")
        for name in ("deltalake", "tensorflow_datasets.core.features", "tree"):
            import_module(name)
        fox.config(progress=False)
    elif case.startswith("tfds"):
        import_module("tensorflow")
        import_module("tensorflow_datasets")


CASES = (copy, fogx_import, tfds_loop, tfds_batched, tfds_encoded, fogx_export, tfds_write_decoded, tfds_write_encoded, fogx_read)


def main() -> None:
    case, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    began = time.perf_counter()
    _import_all(case)
    imports, base, clock = time.perf_counter() - began, _peak(), Clock()
    told = {function.__name__: function for function in CASES}[case](source, out, clock)
    print(json.dumps({"wall": clock.wall, "cpu": clock.cpu, "imports": imports, "base": base, "peak": _peak(), **told}))


if __name__ == "__main__":
    main()

"""What is done to a dataset while it is killed, starved or cut from power, and how to tell what of it is there.

A job is a state to begin with and steps. `facts` says all that a user can see. After any accident the facts are those after one of
the steps, one acknowledged at least, and the steps that remain can be done.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fogx as fox
from fogx.reading.episodes import Located, decoder, locate, read_derived
from fogx.recording import frames
from fogx.storage.log import delta
from fogx.storage.log.versions import oldest_kept
from fogx.storage.tables.derived import source_of
from tests.ageing import make_older

BRIDGE = Path(__file__).parents[2] / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"

Step = Callable[[fox.Dataset], Any]


@dataclass(frozen=True)
class Job:
    """Steps to do on a dataset that other steps made."""

    steps: tuple[Step, ...]
    before: tuple[Step, ...] = ()
    partly: bool = False
    """Whether a part of a step may be there: the episodes of one commit, each of them whole."""


def record(number: int, camera: bool = True) -> Step:
    def step(dataset: fox.Dataset) -> None:
        episode = dataset.new_episode({"made": number, "number": number})
        for i in range(4):
            episode.add("state", np.full(3, i, np.float32))
            if camera:
                episode.add("view", np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8))
        _close(episode)

    return step


def record_timed(number: int) -> Step:
    """Record sensors of two rates, whose samples are kept beside the steps."""

    def step(dataset: fox.Dataset) -> None:
        episode = dataset.new_episode({"made": number, "number": number}, align=fox.Align(reference="state"))
        for i in range(8):
            if i == 2:
                episode.begin("middle", 0.5)
            if i % 2 == 0:
                episode.add("state", np.full(3, i // 2, np.float32), 10 * i + 1)
            episode.add("view", np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8), 10 * i)
            if i == 5:
                episode.end("middle")
        _close(episode)

    return step


def realign(dataset: fox.Dataset) -> None:
    """Other steps, of which there are as many."""
    dataset.realign(align=fox.Align(rate_hz=5e7, features={"state": fox.next()}))


def derive(dataset: fox.Dataset) -> None:
    dataset.derive(image_size=(8, 12))


def picture(number: int) -> np.ndarray:
    """Return an image that tells its number, of 1 kB as PNG."""
    made = np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)
    made[0, :2] = divmod(number, 256)
    return made


def sync(episode: Any) -> None:
    """Do what the thread of the journal does each second, once all that was added is encoded."""
    episode._held.frames.encoding.drain()
    episode._journal.sync()
    episode._journal.seal()


def record_sealed(number: int) -> Step:
    """Record images, most of which are in files before the episode is closed."""

    def step(dataset: fox.Dataset) -> None:
        frames.SEAL_BYTES = 2_500
        episode = dataset.new_episode({"made": number, "number": number})
        for i in range(4):
            episode.add_step({"state": np.full(3, i, np.float32), "mask": picture(i), "depth": picture(i + 300)})
            if i % 2:
                try:
                    sync(episode)
                except fox.FogxError:
                    continue  # the thread logs it, and tries again
                acknowledge(dataset, f"{episode.episode_id} synced {i + 1}")
        _close(episode)

    return step


def record_on_and_on(dataset: fox.Dataset) -> None:
    """Record episodes of images, numbers and texts until somebody puts an end to it."""
    frames.SEAL_BYTES = 20_000
    delta.UPKEEP_EVERY = 5
    for number in itertools.count():
        episode = dataset.new_episode({"made": number}, align=fox.Align(reference="joint"))
        length = 5 + number * 37 % 120
        for i in range(length):
            episode.add("joint", np.full(3, i, np.float64), i * 1_000_000)
            if i % 3 == 0:
                episode.add("mask", picture(i), i * 1_000_000)
                episode.add("text", f"number {i}", i * 1_000_000)
            if i % 25 == 24:
                sync(episode)
                acknowledge(dataset, f"{episode.episode_id} synced {i + 1}")
        episode.close()
        acknowledge(dataset, f"{episode.episode_id} closed {length}")


def acknowledge(dataset: fox.Dataset, what: str) -> None:
    """Write down, beside the dataset, what is on disk."""
    with open(f"{dataset.path}.said", "ab", buffering=0) as file:
        file.write(what.encode() + b"\n")


def acknowledged(root: str | os.PathLike[str]) -> dict[str, tuple[str, int]]:
    """Return what was acknowledged last of each episode."""
    said = Path(f"{root}.said").read_text().splitlines() if os.path.exists(f"{root}.said") else []
    return {line.split()[0]: (line.split()[1], int(line.split()[2])) for line in said}


def load(split: str) -> Step:
    return lambda dataset: dataset.load_rtx_episodes(str(BRIDGE), split=split)


def tag(made: int, **values: Any) -> Step:
    return lambda dataset: dataset.tag(_made(dataset, made), **values)


def annotate(label: str, *made: int, start_s: float | None = None) -> Step:
    return lambda dataset: dataset.annotate([i for m in made for i in _made(dataset, m)], label, start_s, value=1)


def unlabel(label: str) -> Step:
    return lambda dataset: dataset.remove_segments(dataset.segments(label=label))


def delete(made: int) -> Step:
    return lambda dataset: dataset.delete(_made(dataset, made))


def update(dataset: fox.Dataset) -> None:
    info = dataset.get_episode_info()
    info["seen"] = "yes"
    info["score"] = 1.5
    dataset.update_episode_info(info)


def restore_first(dataset: fox.Dataset) -> None:
    dataset.restore(next(v for v in range(99) if len(dataset.at(v)) == 2))


def pin_now(dataset: fox.Dataset) -> None:
    dataset.pin("kept")


def older_format(dataset: fox.Dataset) -> None:
    dataset._roots.write.writable().delta.set_properties({"fogx.minWriterVersion": "1"}, "as an older fogx made it")


def migrate(dataset: fox.Dataset) -> None:
    dataset.migrate()


def age(dataset: fox.Dataset) -> None:
    make_older(dataset.path)


def vacuum(dataset: fox.Dataset) -> None:
    dataset.vacuum()


def until_upkeep(dataset: fox.Dataset) -> None:
    for number in range(100, 106):  # more files than are left unmerged
        record(number, camera=False)(dataset)
    while dataset.refresh().version < 19:
        tag(105, number=dataset.version)(dataset)


THREE = (record(0), record(1), record(2))

JOBS = {
    "record": Job((record(0), record(1, camera=False))),
    "timed": Job((record_timed(0),)),
    "sealed": Job((record_sealed(0),)),
    "next": Job((record(7, camera=False),)),
    "import": Job((load("train[:3]"),), (load("train[:1]"),), partly=True),
    "tag": Job((tag(1, number=7), tag(0, number=None)), THREE),
    "update": Job((update,), THREE),
    "widen": Job((tag(1, number=0.5),), THREE),
    "delete": Job((delete(1),), THREE),
    "restore": Job((restore_first,), (*THREE, tag(0, number=5), delete(1))),
    "pin": Job((pin_now, tag(2, number=3), lambda dataset: dataset.unpin("kept")), THREE),
    "migrate": Job((migrate, tag(1, number=7)), (*THREE, older_format)),
    "vacuum": Job((vacuum,), (*THREE, pin_now, tag(0, number=5), delete(1), age, tag(0, number=6))),
    "trim": Job((vacuum, tag(100, number=9)), (until_upkeep, tag(100, number=7), tag(100, number=8), age, tag(101, number=6))),
    "compact": Job((lambda dataset: dataset.compact(),), THREE),
    "realign": Job((realign, tag(0, number=7)), (record_timed(0), record_timed(1))),
    "derive": Job((derive, tag(0, number=7)), THREE),
    "annotate": Job(
        (annotate("a", 0, 1), annotate("b", 1, 2, start_s=0.0), unlabel("a")), (*THREE, annotate("before", 0), annotate("a", 2))
    ),
    "upkeep": Job((tag(100, number=7),), (until_upkeep,)),
}


ON_AND_ON = {"on and on": Job((record_on_and_on,))}
"""What ends by a kill alone."""


def facts(root: str | os.PathLike[str], thorough: bool = True) -> dict[str, Any]:
    """Return what a user can see: rows by what they are about, and the rows of pinned versions; values are checked on the way."""
    if not os.path.isdir(os.path.join(root, "episodes", "_delta_log")):
        return {"now": {}, "pins": {}, "format": "2"}
    dataset = fox.Dataset(root)
    if dataset.version is None:
        return {"now": {}, "pins": {}, "format": "2"}
    log = dataset._roots.write.log
    result = {"now": _rows(dataset, thorough), "pins": {}, "format": log.delta.properties["fogx.minWriterVersion"]}
    for name in log.pins():
        result["pins"][name] = _rows(dataset.at(name), thorough)
    return result


class Reference:
    """A job's dataset before its first step, and the facts after each, from a run without accidents."""

    def __init__(self, job: str, folder: Path) -> None:
        self.job, self.base = job, folder / "base"
        for step in JOBS[job].before:
            step(fox.Dataset(self.base))
        root = self.copy(folder / "reference")
        self.stages = [facts(root)]
        for step in JOBS[job].steps:
            step(fox.Dataset(root))
            self.stages.append(facts(root))
        shutil.rmtree(root)

    def copy(self, at: Path) -> Path:
        """Make a copy to do the steps on."""
        if self.base.exists():
            shutil.copytree(self.base, at)
        return at

    def check(self, root: Path, done: int, *, go_on: bool = True) -> None:
        """Check that a dataset is as after one of the steps from the last acknowledged one on, and do those that remain."""
        found = facts(root)
        here = [n for n in (done, done + 1) if n < len(self.stages) and self.stages[n] == found]
        if not here and JOBS[self.job].partly:
            before, after = self.stages[done]["now"], self.stages[done + 1]["now"]
            if before.items() <= found["now"].items() <= after.items():
                here = [done]
        assert here, f"{done} steps were acknowledged, found is {found}"
        check_log(root)
        if go_on:
            for step in JOBS[self.job].steps[here[0] :]:
                step(fox.Dataset(root))
            assert facts(root, thorough=False) == self.stages[-1]


def check_log(root: str | os.PathLike[str]) -> None:
    """Every log entry holds whole actions, none is missing that a kept version needs, and the oldest of these can be read."""
    folder = Path(root) / "episodes" / "_delta_log"
    if not (entries := sorted(folder.glob("*.json"))):
        return
    oldest = oldest_kept(fox.Dataset(root)._roots.write.log.delta)
    numbers = [number for path in entries if (number := int(path.stem)) >= oldest]
    assert numbers == list(range(oldest or int(entries[0].stem), int(entries[-1].stem) + 1)), numbers
    if oldest:
        _rows(fox.Dataset(root).at(oldest), thorough=False)
    for path in entries:
        assert [json.loads(line) for line in path.read_bytes().splitlines()], path


def _rows(dataset: fox.Dataset, thorough: bool) -> dict[str, Any]:
    log = dataset._roots.write.log
    found = {}
    ids = log.rows["episode_id"].to_pylist()
    assert len(set(ids)) == len(ids), "an episode is there twice"
    hidden = {"episode_id", "start_ns", "duration_ns", "schema_id", "index_file", "index_row", "segments_file", "dataset"}
    derived = {member.episode_id: _derived(member, thorough) for member in locate(dataset._roots.chosen())}
    for row, view in zip(log.rows.to_pylist(), dataset.episodes, strict=True):
        key = row["source_key"] or str(row["made"])
        assert key not in found, "an episode was saved twice"
        found[key] = {k: v for k, v in row.items() if k not in hidden and v is not None}
        if derived[row["episode_id"]]:
            found[key]["derived"] = derived[row["episode_id"]]
        if row["segments_file"]:
            found[key]["segments"] = view.segments[["label", "start_step", "stop_step", "value"]].values.tolist()
        if not thorough or row.get("made", 0) >= 100:
            continue
        if row["source_key"]:
            assert len(view["action"]) == view.num_steps == 10
        else:
            assert view["state"][:, 0].tolist() == [0, 1, 2, 3]
            if "view" in view.schema:
                assert view["view"].shape == (4, 16, 16, 3)
            for name, first in (("mask", 0), ("depth", 300)):
                if name in view.schema:
                    assert view[name].tolist() == [picture(first + i).tolist() for i in range(4)]
    return found


def _derived(member: Located, thorough: bool) -> list[str]:
    """Return the names of an episode's frames in other sizes, after decoding them."""
    for name, blobs in (read_derived(member) if thorough else {}).items():
        source, feature = source_of(name, member.schema)
        assert len(blobs) == sum(len(place.lengths) for place in member.index.frames_of(source))
        for blob in blobs:
            decoder(feature)(blob)
    return sorted({place.feature for place in member.index.derived})


def _close(episode: Any) -> None:
    """Close an episode; an error of it says how to go on."""
    try:
        episode.close()
    except fox.FogxError as error:
        error.again = episode.close  # type: ignore[attr-defined]
        raise


def _made(dataset: fox.Dataset, number: int) -> list[str]:
    info = dataset.get_episode_info()
    return info.loc[info["made"] == number, "episode_id"].tolist()

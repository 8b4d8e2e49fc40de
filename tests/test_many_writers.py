"""Many processes on one root: nothing lost, nothing doubled, and every read is some committed version."""

import json
import multiprocessing
import time
import warnings

import numpy as np
import pytest

import fogx as fox
from fogx.errors import EpisodeNotFoundError

# The server imports and uses nothing; a process forked from it starts in a tenth of the time of a new one.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["pytest", "deltalake", "pandas", "pyarrow.dataset", "fogx.dataset"])
STEPS = 3


def _note(file, **what):
    file.write(json.dumps({**what, "at_ns": time.monotonic_ns()}) + "\n")
    file.flush()


def _record(dataset, writer, number):
    with dataset.new_episode({"writer": writer, "number": number}) as episode:
        for step in range(STEPS):
            episode.add("state", np.full(2, 1000 * writer + number + step, np.float32))
    return episode.episode_id


def _writer(path, notes, start, writer, count):
    start.wait()
    dataset = fox.Dataset(path)
    with open(notes, "w") as file:
        for number in range(count):
            _note(file, do="append", id=_record(dataset, writer, number))


def _tagger(path, notes, start, stop, column):
    """Tag episodes, sometimes under the eyes of a deleter, with values that grow."""
    start.wait()
    turn = 0
    with open(notes, "w") as file:
        while not stop.is_set():
            dataset = fox.Dataset(path)
            info = dataset.get_episode_info()
            if not len(info):
                continue
            turn += 1
            picked = info.sample(min(len(info), 5), random_state=turn)["episode_id"].tolist()
            try:
                dataset.tag(picked, **{column: turn})
            except EpisodeNotFoundError:
                continue
            _note(file, do="tag", ids=picked, value=turn, column=column)


def _merger(path, notes, start, stop):
    start.wait()
    with open(notes, "w") as file:
        while not stop.is_set():
            dataset = fox.Dataset(path)
            if dataset.version is not None and (files := dataset._roots.write.log.merge_small()):
                _note(file, do="merge", files=files)
            time.sleep(0.05)


def _deleter(path, notes, start, stop):
    start.wait()
    with open(notes, "w") as file:
        while not stop.is_set():
            dataset = fox.Dataset(path)
            info = dataset.get_episode_info()
            if len(info) > 20:
                gone = info["episode_id"].iloc[3]
                _note(file, do="deleting", id=gone)
                if dataset.delete([gone]):
                    _note(file, do="delete", id=gone)
            time.sleep(0.1)


def _reader(path, notes, start, stop):
    """Note what each read saw: a handle that is refreshed, and one that is new."""
    start.wait()
    kept = fox.Dataset(path)
    with open(notes, "w") as file:
        while not stop.is_set():
            for name, handle in (("kept", kept), ("new", None)):
                began = time.monotonic_ns()
                dataset = handle.refresh() if handle is not None else fox.Dataset(path)
                if dataset.version is None:
                    continue
                info = dataset.get_episode_info()
                _note(file, do="read", handle=name, began_ns=began, version=dataset.version, seen=_content(info))


def _content(info):
    wanted = [c for c in ("writer", "number", "tag_0", "tag_1") if c in info.columns]
    return sorted(info[["episode_id", *wanted]].astype(object).where(info[["episode_id", *wanted]].notna(), None).values.tolist())


def _run(processes, stop, writers):
    """Start all, wait for the writers, stop the others; every process must end well."""
    for process in processes:
        process.start()
    for process in writers:
        process.join(500)
    stop.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def _together(tmp_path, writers, count, others):
    """Let writers record `count` episodes each beside others; return the dataset, and what each process noted, by its name."""
    root, notes = tmp_path / "root", tmp_path / "notes"
    notes.mkdir()
    start, stop = FRESH.Barrier(writers + len(others)), FRESH.Event()

    def process(name, target, *arguments):
        return FRESH.Process(target=target, args=(root, notes / f"{name}.jsonl", start, *arguments), daemon=True)

    recording = [process(f"writer{n}", _writer, n, count) for n in range(writers)]
    beside = [process(name, target, stop, *more) for name, (target, *more) in others.items()]
    _run([*recording, *beside], stop, recording)
    noted = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in notes.glob("*.jsonl")}
    return fox.Dataset(root), noted


@pytest.mark.parametrize("count", [25, pytest.param(200, marks=pytest.mark.long)])
def test_eight_writers_a_tagger_and_a_merger(tmp_path, count):
    dataset, noted = _together(tmp_path, 8, count, {"tagger": (_tagger, "tag_0"), "merger": (_merger,)})
    info = dataset.get_episode_info()
    assert sorted(zip(info["writer"], info["number"], strict=True)) == [(w, n) for w in range(8) for n in range(count)]
    assert info["episode_id"].is_unique
    tags = {}
    for note in noted["tagger"]:
        tags |= dict.fromkeys(note["ids"], note["value"])
    assert len(noted["tagger"]) > count / 5, "edits do not starve"
    assert dict(zip(info["episode_id"], info["tag_0"].astype(object).where(info["tag_0"].notna(), None), strict=True)) == {
        i: tags.get(i) for i in info["episode_id"]
    }
    steps = dataset.get_step_data(with_metadata=["writer", "number"]).collect()
    assert len(steps) == 8 * count * STEPS
    first = steps["state"].to_numpy()[:, 0]
    assert (first == (1000 * steps["writer"] + steps["number"] + steps["step_index"]).to_numpy()).all()


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.long)])
def test_every_read_is_some_committed_version(tmp_path, count):
    """Writers, two taggers, a deleter, a merger and two readers; afterwards each note is held against the log."""
    others = {f"tagger{n}": (_tagger, f"tag_{n}") for n in range(2)} | {f"reader{n}": (_reader,) for n in range(2)}
    dataset, noted = _together(tmp_path, 3, count, {**others, "deleter": (_deleter,), "merger": (_merger,)})
    versions = {v: _content(dataset.at(v).get_episode_info()) for v in range(dataset.version + 1)}
    reads = [note for name, lines in noted.items() if name.startswith("reader") for note in lines]
    assert len(reads) > 20
    # Columns appear with their first value; a row of a version before has one cell less.
    for read in reads:
        assert read["seen"] == versions[read["version"]], "a read is some committed version"
    for name, lines in noted.items():
        for handle in ("kept", "new"):
            seen = [note["version"] for note in lines if note["do"] == "read" and note["handle"] == handle]
            assert seen == sorted(seen), f"{name} never goes back in time"
    deleting = {note["id"] for note in noted["deleter"] if note["do"] == "deleting"}
    there = {v: {row[0] for row in content} for v, content in versions.items()}
    for lines in noted.values():
        for note in lines:
            if note["do"] == "append" and note["id"] not in deleting:
                late = [read for read in reads if read["began_ns"] > note["at_ns"]]
                assert all(note["id"] in there[read["version"]] for read in late), "what was acknowledged is seen from then on"
            if note["do"] == "delete":
                late = [read for read in reads if read["began_ns"] > note["at_ns"]]
                assert all(note["id"] not in there[read["version"]] for read in late)
    appended = {note["id"] for lines in noted.values() for note in lines if note["do"] == "append"}
    gone = {note["id"] for note in noted["deleter"] if note["do"] == "delete"}
    assert there[dataset.version] == appended - gone


def _add_key(path, start, key):
    start.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = fox.Dataset(path)
        with dataset.new_episode({f"key_{key}": key, "shared": key if key % 2 else key + 0.5}) as episode:
            episode.add("state", 1.0)


def test_eight_processes_that_each_add_a_key(tmp_path):
    start = FRESH.Barrier(8)
    processes = [FRESH.Process(target=_add_key, args=(tmp_path / "root", start, key), daemon=True) for key in range(8)]
    _run(processes, FRESH.Event(), processes)
    info = fox.Dataset(tmp_path / "root").get_episode_info()
    assert len(info) == 8
    for key in range(8):
        assert info[f"key_{key}"].dropna().tolist() == [key]
    assert sorted(info["shared"].tolist()) == [0.5, 1, 2.5, 3, 4.5, 5, 6.5, 7]

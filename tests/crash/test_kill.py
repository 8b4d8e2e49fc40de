"""A real process killed at any point: what was acknowledged is there, nothing is half visible, and the work goes on."""

import collections
import os
import random
import shutil
import time

import pytest

import fogx as fox
from fogx.storage.files.paths import FAMILIES
from tests.crash.jobs import JOBS, age

fox.config(progress=False)


@pytest.mark.parametrize("job", [job for job in JOBS if job != "next"])  # that one is the first step of "record" again
def test_killed_at_every_point(tmp_path, forge, reference, job):
    whole, left = forge.run(reference(job).copy(tmp_path / "whole"), job, look=True), {}
    assert whole.done == len(JOBS[job].steps)
    assert whole.points == len(whole.states) > 10
    for point, state in enumerate(whole.states, 1):
        root = reference(job).copy(tmp_path / str(point))
        run = forge.run(root, job, kill_at=point)
        assert run.killed
        files = collections.Counter(os.path.dirname(name).split("/")[0] for name in _files(root))
        if (state, run.done) in left:  # nothing was written since a point before, so the same is found
            assert files == left[state, run.done]
        else:
            left[state, run.done] = files
            reference(job).check(root, run.done)
        shutil.rmtree(root, ignore_errors=True)


def _kill_at_random(tmp_path, forge, reference, seed, kills):
    rng = random.Random(seed)
    lasts = {}
    killed = runs = 0
    while killed < kills:
        assert runs < 10 * kills, f"{killed} of {runs} runs were killed"
        job = rng.choice(list(JOBS))
        root = reference(job).copy(tmp_path / str(runs))
        start = time.monotonic()
        run = forge.run(root, job, kill_after_s=rng.random() * lasts[job] if job in lasts else None)
        if not run.killed:
            took = time.monotonic() - start
            lasts[job] = min(lasts.get(job, took), took)
        reference(job).check(root, run.done)
        killed += run.killed
        runs += 1
        shutil.rmtree(root, ignore_errors=True)


def test_killed_at_random_times(tmp_path, forge, reference):
    _kill_at_random(tmp_path, forge, reference, seed=0, kills=20)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_at_random_times_often(tmp_path, forge, reference, seed):
    _kill_at_random(tmp_path, forge, reference, seed, kills=100)


def _kill_at_calls(tmp_path, forge, reference, job, calls, which):
    """Kill it as one of its threads enters the n-th of these system calls, delta-rs' own among them."""
    root = None
    for number in which:
        root = reference(job).copy(tmp_path / f"{calls}-{number}".replace(",", "-"))
        run = forge.run(root, job, inject=["-e", f"inject={calls}:signal=KILL:when={number}"])
        reference(job).check(root, run.done)
        shutil.rmtree(root, ignore_errors=True)
        if not run.killed:
            return
    assert root is not None


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("job", ["tag", "vacuum"])
def test_killed_in_a_native_call(tmp_path, forge, reference, job):
    _kill_at_calls(tmp_path, forge, reference, job, "link,linkat,rename,unlink,unlinkat", range(1, 4))


@pytest.mark.long
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "calls", ["openat", "write", "link,linkat,rename,renameat,renameat2", "unlink,unlinkat", "fsync", "mkdir"]
)
@pytest.mark.parametrize("job", ["record", "tag", "vacuum", "upkeep"])
def test_killed_at_every_system_call(tmp_path, forge, reference, job, calls):
    _kill_at_calls(tmp_path, forge, reference, job, calls, range(1, 400))


def _files(root):
    return [os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names]


def _data_files(root):
    return collections.Counter(name.split("/")[0] for name in _files(root) if name.split("/")[0] in FAMILIES)


@pytest.mark.parametrize(
    ("job", "step"), [("record", 6), ("import", 4), ("tag", 5), ("annotate", 6), ("upkeep", 6), ("vacuum", 2)]
)
def test_what_killed_processes_leave_is_found_by_vacuum(tmp_path, forge, reference, job, step):
    whole = reference(job).copy(tmp_path / "whole")
    points = forge.run(whole, job).points
    age(fox.Dataset(whole))
    fox.Dataset(whole).vacuum()
    left = 0
    for point in range(2, points, step):
        root = reference(job).copy(tmp_path / str(point))
        reference(job).check(root, forge.run(root, job, kill_at=point).done)
        age(fox.Dataset(root))
        before = _data_files(root)
        fox.Dataset(root).vacuum()
        assert fox.Dataset(root).vacuum().empty
        assert _data_files(root) == _data_files(whole)
        assert not [name for name in _files(root) if "#" in name or ".tmp" in name]
        reference(job).check(root, len(JOBS[job].steps))
        left += before != _data_files(whole)
        shutil.rmtree(root)
    assert left or job in ("tag", "upkeep", "vacuum"), "no process left a data file"

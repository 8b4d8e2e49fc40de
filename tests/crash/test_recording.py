"""A process that records is killed, or loses power, at any moment: what was closed is there, what was open comes back by `recover`."""

import os
import random
import shutil

import pytest

import fogx as fox
from tests.crash import power
from tests.crash.jobs import acknowledged, check_log, picture
from tests.crash.test_power import _trace

fox.config(progress=False)


def recover(root, said):
    """Recover, and check that each episode holds as much as was acknowledged, right, and is there once."""
    if not os.path.isdir(root):
        assert not said
        return []
    outcomes = fox.Dataset(root).recover()["outcome"].tolist()
    assert set(outcomes) <= {"saved", "saved before", "empty"}
    assert fox.Dataset(root).recover().empty
    check_log(root)
    found = {view.episode_id: view for view in fox.Dataset(root).episodes}
    for episode_id, (verb, count) in said.items():
        view = found[episode_id]
        assert view.num_steps == count if verb == "closed" else view.num_steps >= count
        assert ("interrupted" in view.metadata) <= (verb == "synced")
    for view in found.values():
        length = view.num_steps
        if "joint" in view.schema:
            assert view["joint"][:, 0].tolist() == list(range(length))
            first = [i - i % 3 for i in range(length)]
            shown = [int(image[0, 0]) * 256 + int(image[0, 1]) for image in view["mask"]]
            assert shown[: len(said) and said.get(view.episode_id, ("", 0))[1]] == first[: said.get(view.episode_id, ("", 0))[1]]
            assert all(n % 3 == 0 and n <= i for i, n in enumerate(shown))
            assert [text.split()[1] for text in view["text"]] == [str(n) for n in first]
        else:
            for name, base in (("mask", 0), ("depth", 300)):
                assert view[name].tolist() == [picture(base + i).tolist() for i in range(length)]
    assert fox.Dataset(root).check(deep=True).empty if found else True
    return outcomes


def test_killed_at_every_point(tmp_path, forge):
    whole, outcomes, seen = forge.run(tmp_path / "whole", "sealed", look=True), [], set()
    assert whole.points == len(whole.states) > 25
    for point, state in enumerate(whole.states, 1):
        root = tmp_path / str(point)
        assert forge.run(root, "sealed", kill_at=point).killed
        if state not in seen:  # else nothing was written since a point before, and the same is found
            outcomes += recover(root, acknowledged(root))
        seen.add(state)
        shutil.rmtree(root, ignore_errors=True)
    assert {"saved", "saved before", "empty"} == set(outcomes)


def _kill_at_random(tmp_path, forge, seed, kills, within_s):
    rng, outcomes = random.Random(seed), []
    for number in range(kills):
        root = tmp_path / str(number)
        assert forge.run(root, "on and on", kill_after_s=0.15 + rng.random() * within_s).killed
        outcomes += recover(root, acknowledged(root))
        shutil.rmtree(root, ignore_errors=True)
    assert "saved" in outcomes


def test_killed_at_random_times(tmp_path, forge):
    _kill_at_random(tmp_path, forge, seed=0, kills=20, within_s=0.6)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_at_random_times_often(tmp_path, forge, seed):
    _kill_at_random(tmp_path, forge, seed, kills=50, within_s=1.5)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("how", ["least", "gone", pytest.param("names", marks=pytest.mark.long)])
def test_power_lost_at_any_moment(tmp_path, how):
    """What was synced is safe, and a sealed file before it is named; then only is its part of the journal removed."""
    (tmp_path / "traced").mkdir()
    calls, root = _trace(tmp_path / "traced", "sealed"), tmp_path / "traced" / "sealed"
    disk, said, seen = power.Disk(str(root), str(tmp_path / "none")), {}, set()
    for call in calls:
        if call.paths[:1] == (f"{root}.said",) and call.name == "write":
            episode_id, verb, count = call.data.decode().split()
            said[episode_id] = verb, int(count)
        elif disk.does(call) and call.name not in ("create", "write"):
            state = disk.leave(tmp_path / "root", how), len(said)
            if state not in seen and not (how == "names" and _torn(tmp_path / "root")):
                recover(tmp_path / "root", said)
            seen.add(state)
            shutil.rmtree(tmp_path / "root", ignore_errors=True)
    assert said
    assert len(seen) > 10


def _torn(root):
    entries = [*(root / "episodes" / "_delta_log").glob("*.json")]
    return any(not entry.read_bytes().endswith(b"}\n") and not entry.read_bytes().endswith(b"}") for entry in entries)


@pytest.mark.usefixtures("strace")
def test_a_sealed_file_is_synced_before_it_is_named(tmp_path):
    calls, root = _trace(tmp_path, "sealed"), str(tmp_path / "sealed")
    places = {}
    for position, call in enumerate(calls):
        for path in call.paths[:1]:
            places.setdefault((call.name, path.removeprefix(root + "/")), []).append(position)
    sealed = sorted(path for name, path in places if name == "create" and path.startswith("frames/"))
    assert len(sealed) >= 2
    told = [i for i, c in enumerate(calls) if c.name == "write" and c.paths[0].endswith(".mcap") and b"sealed" in c.data]
    removed = [min(at) for (name, path), at in places.items() if name == "unlink" and ".frames-" in path]
    assert len(told) == len(removed) == 2
    main = calls[told[0]].paths[0].removeprefix(root + "/")
    for file, named, gone in zip(sorted(sealed, key=lambda path: places["create", path][0]), told, sorted(removed), strict=False):
        folder = os.path.dirname(file)
        assert places["fsync", file][-1] < named
        assert any(places["fsync", file][-1] < at < named for at in places["fsync", folder])
        assert any(named < at < gone for at in places["fsync", main])

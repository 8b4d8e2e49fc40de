"""Power lost at any moment: every acknowledged step is there after the power came back, whatever was on its way to the disk.

One trace of the system calls of all jobs is replayed by `power.Disk`. Only one kind of damage may close a root: the log entry of a
commit that was not acknowledged, empty or torn, which the error says.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fogx as fox
from fogx.errors import CorruptDataError
from tests.crash import power
from tests.crash.jobs import JOBS, facts

fox.config(progress=False)

pytestmark = pytest.mark.xdist_group("power")  # else each process of pytest-xdist traces all jobs


@pytest.fixture(scope="session")
def traced(tmp_path_factory, reference, strace):
    """Return the folder of all jobs' datasets, and the calls that were made on them."""
    folder = tmp_path_factory.mktemp("traced")
    for job in JOBS:
        reference(job).copy(folder / job)
    return folder, _trace(folder, *JOBS)


def _trace(folder, *arguments):
    trace, here = folder / "trace", Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)])}
    command = [*power.STRACE, "-o", trace, sys.executable, "-m", "tests.crash.child", folder, *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return list(power.calls(trace))


def _states(traced, reference, job, at, how, seed=0):
    """Make each folder that may be found, once, and yield how many steps had been acknowledged."""
    folder, calls = traced
    disk = power.Disk(str(folder / job), str(reference(job).base))
    done, seen = 0, set()
    for number, call in enumerate(calls):
        if call.data.startswith(b'{"done": "%s ' % job.encode()):
            done += 1
        elif disk.does(call) and call.name not in ("create", "write"):  # how much of a file is there `leave` decides
            state = disk.leave(at, how, hash((seed, number))), done
            if state not in seen:
                seen.add(state)
                yield done
            shutil.rmtree(at, ignore_errors=True)
    assert done == len(JOBS[job].steps)
    assert len(seen) > 1


def _survives(reference, root, done, *, go_on):
    """Check a folder, and say whether a torn entry of an unacknowledged commit had to be taken away first."""
    torn = max((root / "episodes" / "_delta_log").glob("*.json"), default=None)
    if torn is not None and not _is_whole(torn):
        with pytest.raises(CorruptDataError, match=r"fox\.repair\(") as found:
            fox.Dataset(root)
        assert len(str(found.value)) < 600
        torn.unlink()
    else:
        torn = None
    reference.check(root, done, go_on=go_on)
    return torn is not None


def _is_whole(entry: Path) -> bool:
    try:
        return bool([json.loads(line) for line in entry.read_bytes().splitlines()])
    except ValueError:
        return False


@pytest.mark.parametrize("how", ["least", "log", "gone"])
@pytest.mark.parametrize("job", JOBS)
def test_the_order_of_syncs(tmp_path, traced, reference, job, how):
    """Data is safe before the log names it, the log before it is acknowledged, and before anything that it gave up is removed."""
    for done in _states(traced, reference, job, tmp_path / "root", how):
        assert not _survives(reference(job), tmp_path / "root", done, go_on=how == "least")


@pytest.mark.parametrize("how", ["names", "random"])
@pytest.mark.parametrize("job", [job for job in JOBS if job != "upkeep"])
def test_names_without_bytes_and_any_mixture(tmp_path, traced, reference, job, how):
    states = _states(traced, reference, job, tmp_path / "root", how)
    torn = [_survives(reference(job), tmp_path / "root", done, go_on=False) for done in states]
    assert not all(torn)
    assert any(torn) or how == "random", "the model shows no torn entry, which it should"


def test_a_torn_checkpoint_is_never_named(tmp_path, traced, reference):
    for done in _states(traced, reference, "upkeep", tmp_path / "root", "cut"):
        _survives(reference("upkeep"), tmp_path / "root", done, go_on=False)


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "names", "cut", "zeros", *(f"random {seed}" for seed in range(8))])
@pytest.mark.parametrize("job", JOBS)
def test_all_that_may_be_found(tmp_path, traced, reference, job, how):
    how, _, seed = how.partition(" ")
    for done in _states(traced, reference, job, tmp_path / "root", how, seed):
        torn = _survives(reference(job), tmp_path / "root", done, go_on=True)
        assert not (torn and how == "kill")


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.long)])
def test_nothing_is_built_on_what_a_killed_process_did_not_sync(tmp_path, forge, every):
    """Folders, schemas and log entries that a process made and did not live to sync are synced by the next one that needs them."""
    points = range(2, forge.run(tmp_path / "whole", "record").points, every)
    for point, calls in zip(points, _relays(_trace(tmp_path, *(f"record/{point}/next" for point in points))), strict=True):
        disk, done, root = power.Disk(str(tmp_path / f"record-{point}"), str(tmp_path / "none")), set(), tmp_path / "root"
        for call in calls:
            disk.does(call)
            if call.data.startswith(b'{"done": '):
                done.add({"record 0": "0", "record 1": "1", "next 0": "7"}[json.loads(call.data)["done"]])
        disk.leave(root, "least")
        assert "7" in done
        assert done <= facts(root)["now"].keys() <= {"0", "1", "7"}
        shutil.rmtree(root)


def _relays(calls):
    """Split a trace where a relay is over."""
    ends = [number for number, call in enumerate(calls) if call.data.startswith(b'{"over"')]
    return [calls[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]

"""A disk that is full, fails, refuses or is slow: a clear error, nothing half visible, and the same call works once that is over."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import fogx as fox
from tests.crash.jobs import JOBS

fox.config(progress=False)

KEPT = ["record", "import", "tag", "annotate", "widen", "vacuum", "upkeep"]


def _check(reference, root, run):
    """Check that each error says where and what to do, and that all steps were done in the end, once."""
    for kinds, text in run.errors:
        assert "FogxError, OSError" in kinds, (kinds, text)
        assert str(root) in text
        assert "again" in text, text
        assert "\n" not in text
    assert run.done == len(reference.stages) - 1
    reference.check(root, run.done)


def _failing(tmp_path, forge, reference, calls, error, which):
    """Let the n-th of some system calls of each thread fail; return how often an error was seen."""
    seen = 0
    for number in which:
        root = reference.copy(tmp_path / f"{error}-{number}")
        # A call of each thread fails, and delta-rs has as many as there are processors.
        run = forge.run(root, reference.job, inject=["-e", f"inject={calls}:error={error}:when={number}"], tries=40)
        _check(reference, root, run)
        shutil.rmtree(root)
        seen += bool(run.errors)
        if not run.errors and number > 60:
            break
    return seen


NAMES = "link,linkat,rename,renameat,renameat2,mkdir,mkdirat"


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("job", "calls", "error", "which"),
    [
        ("tag", "fsync", "EIO", range(1, 20, 3)),
        ("record", "fsync", "ENOSPC", range(2, 60, 6)),
        ("sealed", "fsync", "EIO", range(1, 24, 3)),
        ("import", "fsync", "EIO", range(1, 20, 4)),
        ("annotate", "fsync", "EIO", range(1, 20, 3)),
        ("tag", NAMES, "EACCES", range(1, 3)),
        ("record", NAMES, "ENOSPC", range(1, 8, 2)),
    ],
)
def test_a_system_call_fails(tmp_path, forge, reference, job, calls, error, which):
    assert _failing(tmp_path, forge, reference(job), calls, error, which)


@pytest.mark.long
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("calls", "error"), [("fsync", "EIO"), ("fsync", "ENOSPC"), (NAMES, "EACCES"), (NAMES, "EIO"), (NAMES, "ENOSPC")]
)
@pytest.mark.parametrize("job", JOBS)
def test_every_system_call_fails(tmp_path, forge, reference, job, calls, error):
    assert _failing(tmp_path, forge, reference(job), calls, error, range(1, 150))


@pytest.mark.usefixtures("strace")
def test_slow_syncs(tmp_path, forge, reference):
    root = reference("tag").copy(tmp_path / "root")
    run = forge.run(root, "tag", inject=["-e", "inject=fsync:delay_exit=20000"])
    assert not run.errors
    _check(reference("tag"), root, run)


def _short(tmp_path, forge, reference, sizes):
    seen = 0
    for size in sizes:
        root = reference.copy(tmp_path / str(size))
        run = forge.run(root, reference.job, file_size=size, tries=2)
        _check(reference, root, run)
        shutil.rmtree(root)
        seen += bool(run.errors)
    return seen


@pytest.mark.parametrize("job", ["record", "sealed", "tag", "annotate", "import"])
def test_writes_that_end_short(tmp_path, forge, reference, job):
    """A file may not grow past a size: the write that reaches it is short, the next one fails."""
    assert _short(tmp_path, forge, reference(job), (0, 3, 400, 740, 1500, 4000)) >= 5


@pytest.mark.long
@pytest.mark.parametrize("job", JOBS)
def test_writes_that_end_short_anywhere(tmp_path, forge, reference, job):
    assert _short(tmp_path, forge, reference(job), range(0, 16_000, 130)) > 3


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 2 MB, full but for as many bytes as asked for, until its file `ballast` goes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "tmpfs", str(folder)]
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        subprocess.run([*sudo, *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount a small disk: {error}")
    yield folder
    subprocess.run([*sudo, "umount", str(folder)], check=True)


def _full(folder, forge, reference, frees):
    seen = 0
    for free in frees:
        root, ballast = reference.copy(folder / str(free)), folder / "ballast"
        room = os.statvfs(folder)
        ballast.write_bytes(bytes(max(room.f_bavail * room.f_bsize - free, 0)))
        run = forge.run(root, reference.job, fault=str(ballast), tries=2)
        if not run.errors:
            ballast.unlink()
        _check(reference, root, run)
        shutil.rmtree(root)
        seen += bool(run.errors)
    return seen


@pytest.mark.parametrize("job", ["record", "sealed", "tag", "annotate", "import"])
def test_a_full_disk(small_disk, forge, reference, job):
    assert _full(small_disk, forge, reference(job), (0, 4096, 12_288, 20_480)) >= 2


@pytest.mark.long
@pytest.mark.parametrize("job", KEPT)
def test_a_disk_that_fills_up_anywhere(small_disk, forge, reference, job):
    assert _full(small_disk, forge, reference(job), range(0, 40 * 4096, 4096)) >= 1


def test_a_folder_that_may_not_be_written(forge, reference):
    """Somebody else's dataset: it can be read, and says what is refused. Root may write everywhere, so it becomes nobody."""
    nobody = 65534 if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = reference("tag").copy(Path(folder) / "root")
        for place, _, _ in os.walk(root):
            os.chmod(place, 0o555)
        try:
            with pytest.raises(AssertionError, match="status") as failed:
                forge.run(root, "tag", user=nobody)
            assert "StorageError" in str(failed.value)
            assert "Permission denied" in str(failed.value)
            reference("tag").check(root, 0, go_on=False)
        finally:
            for place, _, _ in os.walk(root):
                os.chmod(place, 0o755)
        reference("tag").check(root, 0)

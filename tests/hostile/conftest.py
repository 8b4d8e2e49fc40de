"""A small root and RLDS folder with a file of every kind, and a process that reads damaged copies of them."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

import fogx as fox

HERE = Path(__file__).parent

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What came of reading.

    Args:
        errors: What went wrong, in order.
        peak_mb: MiB that it took at most.
        died: How the process ended, where it did; `"hung"` where it had to be ended.
    """

    errors: list[dict[str, Any]]
    peak_mb: int
    died: str | None = None

    @property
    def findings(self) -> list[str]:
        """Return what should not have happened."""
        return [f"{e['what']}: {e['text']}" for e in self.errors if not e["ours"]] + ([self.died] if self.died else [])

    @property
    def text(self) -> str:
        """Return what fogx said."""
        return "\n".join(e["text"] for e in self.errors)


class Child:
    """A process that reads roots, started again when it dies.

    Args:
        config: For `fox.config` in it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._process: subprocess.Popen[str] | None = None

    def ask(self, **request: str) -> Outcome:
        """Send one request and wait for the answer, or the end."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = self._line(process)
        if not line:
            code = self.close()
            return Outcome([], 0, "hung" if line is None else f"ended with {code}")
        answer = json.loads(line)
        return Outcome(answer["errors"], answer["peak_mb"])

    def close(self) -> int | None:
        """End the process, and return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return None
        with process:  # closes its pipes
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(5)  # it ends where its input does, and one that died says how
            except subprocess.TimeoutExpired:
                process.kill()
        return process.returncode

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "child.py"), json.dumps(dict(self._config))]
        environment = {**os.environ, "PYTHONPATH": str(Path(fox.__file__).parent.parent)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **pipes, env=environment, text=True, bufsize=1)
        assert self._line(self._process) == "ready\n"
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str | None:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        return process.stdout.readline() if ready else None


@pytest.fixture(scope="session")
def hostile_child(small_root: Path) -> Iterator[Child]:
    """A process that reads roots with 64 MiB to spend and images of up to a million pixels, warmed up."""
    child = Child({"memory_mb": 64, "max_pixels": 1_000_000})
    assert child.ask(read=str(small_root)) == Outcome([], ANY)
    yield child
    child.close()


def make_root(path: Path) -> Path:
    """Make a root with a file of every kind, a checkpoint among them."""
    dataset = fox.Dataset(path, name="small")
    rng = np.random.default_rng(0)
    for number in range(2):
        episode = dataset.new_episode({"collector": "é", "intrinsics": np.eye(3), "nested": {"a": [1, None, "x"]}}, task="go")
        for step in range(3):
            values = {"action": rng.normal(size=7).astype("float32"), "view": rng.integers(0, 255, (32, 32, 3), np.uint8)}
            values |= {"depth": rng.integers(0, 9, (32, 32)).astype("uint16"), "cloud": rng.random((700, 3)), "note": f"n{step}"}
            episode.add_step({**values, "reward": 0.5, "done": step == 2, "text": "long " * 4_000})
        episode.close()
        dataset.tag([episode.episode_id], trial=number)
        dataset.annotate([episode.episode_id], "start", stop_step=2, value=f"v{number}")
    while (dataset.version or 0) < 21:
        dataset.tag(None, turn=dataset.version or 0)
    dataset.tag(None, mixed=0.5)
    return path


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make_root`; not to be changed."""
    return make_root(tmp_path_factory.mktemp("small") / "root")


@pytest.fixture(scope="session")
def small_rlds(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same episodes as an RLDS folder; not to be changed."""
    return Path(fox.Dataset(small_root).export(format="rtx", path=tmp_path_factory.mktemp("rlds")))


@pytest.fixture(scope="session")
def small_table(small_root: Path) -> list[str]:
    """Where the files of the newest version of the `episodes` table lie in `small_root`."""
    table = DeltaTable(str(small_root / "episodes"))
    return sorted(f"episodes/{name}" for name in pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that copies a folder."""
    count = 0

    def copy(folder: Path) -> Path:
        nonlocal count
        count += 1
        target = tmp_path / f"copy{count}"
        shutil.copytree(folder, target)
        return target

    return copy

"""Does the steps of jobs in processes that may be killed or starved.

`python -m tests.crash.child <folder> <job>...` does each job on `<folder>/<job>`, to be traced; `<job>/<n>/<other job>` kills the
process at its n-th point, and lets another one do the other job. `Forge` imports fogx once, in a
process that never uses it, and forks a child from there for each run: 30 ms where a new process takes a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fogx as fox
from tests.crash.jobs import BRIDGE, JOBS, ON_AND_ON

HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """How a run ended.

    Args:
        killed: Whether it was killed.
        done: Steps that were acknowledged.
        points: Points that it passed.
        states: What was on disk at each of them, as a digest, where it was to look.
        errors: (type, text) of each error that a step raised before it was done.
    """

    killed: bool
    done: int
    points: int
    states: list[str]
    errors: list[tuple[str, str]]


class Forge:
    """Makes children that do the steps of a job on a folder; a context manager."""

    def __enter__(self) -> Forge:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
        command = [sys.executable, "-m", "tests.crash.child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__(None, None, None)  # closes its input, at which it ends

    def run(
        self,
        root: str | os.PathLike[str],
        job: str,
        *,
        kill_at: int = 0,
        look: bool = False,
        kill_after_s: float | None = None,
        inject: Sequence[str] = (),
        file_size: int | None = None,
        user: int | None = None,
        fault: str | None = None,
        tries: int = 1,
    ) -> Run:
        """Do a job's steps.

        Args:
            root: The dataset.
            job: Name of the job.
            kill_at: Kill it before the n-th point where something is written; 0 counts them.
            look: Whether to look at the disk at each point.
            kill_after_s: Kill it after so long.
            inject: Arguments of strace, which tampers with system calls.
            file_size: Files cannot grow past so many bytes.
            user: Do it as this user.
            fault: A path that is removed when faults are to be over.
            tries: How often a step is tried. Before the last try `file_size` and `fault` are over.
        """
        order = {"root": str(root), "job": job, "kill_at": kill_at, "look": look, "file_size": file_size, "user": user}
        order |= {"fault": fault, "tries": tries, "wait": bool(inject)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        child = int(self._process.stdout.readline())
        with contextlib.ExitStack() as stack:
            if inject:
                command = ["strace", "-f", "-q", "-o", os.devnull, *inject, "-p", str(child)]
                tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
                stack.callback(tracer.wait, 60)
            if kill_after_s is not None:
                select.select([self._process.stdout], [], [], kill_after_s)  # or until it is done
                with contextlib.suppress(ProcessLookupError):  # it was done before
                    os.kill(child, signal.SIGKILL)
            answer = json.loads(self._process.stdout.readline())
        said = [json.loads(line) for line in answer["said"].splitlines()]
        status = answer["status"]
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), f"status {status}: {answer}"
        return Run(
            killed=os.WIFSIGNALED(status),
            done=sum("done" in line for line in said),
            points=max([line["points"] for line in said if "points" in line], default=0),
            states=next((line["states"] for line in said if "states" in line), []),
            errors=[(line["error"], line["text"]) for line in said if "error" in line],
        )


def say(what: Any) -> None:
    """Tell something to whoever watches: one write, unbuffered."""
    os.write(1, json.dumps(what).encode() + b"\n")


def do(root: str, job: str, tries: int = 1, over: Callable[[], None] = lambda: None) -> None:
    """Do the steps of a job, and acknowledge each by its number."""
    for number, step in enumerate((JOBS | ON_AND_ON)[job].steps):
        dataset = fox.Dataset(root)
        again: Callable[[], Any] = lambda step=step, dataset=dataset: step(dataset)  # noqa: E731
        for left in reversed(range(tries)):
            try:
                again()
                break
            except Exception as error:
                say({"error": ", ".join(c.__name__ for c in type(error).__mro__), "text": str(error)})
                if not left:
                    raise
                if left == 1:
                    over()
                again = getattr(error, "again", again)
        say({"done": f"{job} {number}"})


def _guard(kill_at: int, look: Callable[[], None] = lambda: None) -> Callable[[], int]:
    """Kill this process before the n-th call that changes something on disk, look before each; return a count of them."""
    import pyarrow.parquet as pq
    from deltalake import DeltaTable
    from deltalake.table import TableAlterer

    from fogx.storage.files.store import Store

    count = 0

    def guard(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            look()
            return real(*args, **kwargs)

        setattr(owner, name, guarded)

    for owner, names in [
        (os, "fsync replace unlink mkdir"),
        (Store, "create sync remove"),
        (pq.ParquetWriter, "write_table close"),
        (DeltaTable, "create create_write_transaction create_checkpoint"),
        (TableAlterer, "add_columns set_table_properties"),
        (sys.modules[__name__], "say"),
    ]:
        for name in names.split():
            guard(owner, name)
    return lambda: count


def _digest(root: str) -> str:
    """Tell a dataset, and what was acknowledged beside it, from all others."""
    content = hashlib.sha256()
    for path in sorted([Path(f"{root}.said"), *Path(root).rglob("*")]):
        data = path.read_bytes() if path.is_file() else b""
        content.update(f"{path} {path.exists()} {path.is_dir()} {len(data)}\n".encode() + data)
    return content.hexdigest()


def _child(order: dict[str, Any], out: int) -> None:
    os.dup2(out, 1)
    states: list[str] = []
    look = (lambda: states.append(_digest(order["root"]))) if order["look"] else (lambda: None)
    count = _guard(order["kill_at"], look)
    if order["wait"]:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: strace may attach
        late = time.monotonic() + 30
        while "TracerPid:\t0" in Path("/proc/self/status").read_text():
            assert time.monotonic() < late, "strace did not attach"
            time.sleep(0.002)
    if order["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], resource.RLIM_INFINITY))
    if order["user"] is not None:
        os.setresuid(order["user"], order["user"], order["user"])

    def over() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if order["fault"]:
            os.unlink(order["fault"])

    do(order["root"], order["job"], order["tries"], over)
    say({"points": count(), "states": states.copy()})


def _relay(root: str, job: str, kill_at: int, then: str) -> None:
    """Do a job in a process that is killed, then another in one that is not."""
    for name, point in ((job, kill_at), (then, 0)):
        pid = os.fork()
        if pid == 0:
            _guard(point)
            do(root, name)
            os._exit(0)
        os.waitpid(pid, 0)
    say({"over": root})


def _serve() -> None:
    # Imported here and used in the children alone: what these start (threads, connections) does not survive a fork.
    import deltalake  # noqa: F401
    import pandas  # noqa: F401
    import polars  # noqa: F401
    import pyarrow.dataset  # noqa: F401

    import fogx.dataset  # noqa: F401
    from fogx import registry

    registry.get("executors", "inline")
    registry.get("loaders", "rtx").plan(str(BRIDGE), split="train[:1]", data_dir=None)  # imports what it needs
    gc.freeze()

    for line in sys.stdin:
        order = json.loads(line)
        there, here = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(there)
            try:
                _child(order, here)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(here)
        say(pid)
        with os.fdopen(there) as pipe:
            said = pipe.read()
        say({"status": os.waitpid(pid, 0)[1], "said": said})


if __name__ == "__main__":
    fox.config(progress=False)
    if sys.argv[1:]:
        for argument in sys.argv[2:]:
            job, *relay = argument.split("/")
            if relay:
                _relay(os.path.join(sys.argv[1], f"{job}-{relay[0]}"), job, int(relay[0]), relay[1])
            else:
                do(os.path.join(sys.argv[1], job), job)
    else:
        _serve()

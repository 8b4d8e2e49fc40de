"""What a measured process finds in the page cache, and how much memory it may take. Linux alone."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def forget(folder: Path) -> None:
    """Write the files of a folder to disk and drop them from the page cache, but for what a process has mapped."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def limited(mib: int) -> Iterator[list[str]]:
    """Make a control group of processes that together may take so many MiB, with the page cache of what they read.

    Yields:
        What to put before a command, so that it runs in the group.

    Raises:
        SystemExit: It cannot be made; says why.
    """
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if "memory" in groups:
        parent, limit = CGROUPS / "memory" / groups["memory"].lstrip("/"), "memory.limit_in_bytes"
    else:  # version 2, where a group that has processes has no groups
        parent, limit = CGROUPS, "memory.max"
    group = parent / f"fogx-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(mib << 20))
    except OSError as error:
        _remove(group)
        sys.exit(f"{parent}: no control group with a limit of memory can be made there ({error}). It takes root.")
    try:
        yield ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    try:
        if group.exists():
            group.rmdir()
    except OSError as error:
        print(f"{group} is left: {error}", file=sys.stderr)

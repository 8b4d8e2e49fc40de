"""Local writes that survive power loss: write, fsync the file, fsync the folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable

_settled: set[str] = set()
"""Names that this process made durable, or found and then made durable."""


def fsync_file(path: str) -> None:
    """Flush a file's bytes and length to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(path: str) -> None:
    """Flush a folder's entries, so that a file created in it is still there after power loss."""
    fsync_file(path)


def fsync_files(paths: Iterable[str]) -> None:
    """Flush files, then each folder that holds one of them, once."""
    folders = set()
    for path in paths:
        fsync_file(path)
        folders.add(os.path.dirname(path))
    for folder in sorted(folders):
        fsync_folder(folder)


def settle(path: str) -> None:
    """Make the name of a file or folder that is there durable, once a process: who made it may have died before it was."""
    if path not in _settled:
        fsync_folder(os.path.dirname(path))
        _settled.add(path)


def make_folders(path: str) -> None:
    """Create a folder and its parents durably; those that are there are made durable too, as far up as one may write."""
    if path in _settled and os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        if not os.path.isdir(path):
            make_folders(parent)
            os.makedirs(path, exist_ok=True)
            _settled.discard(path)
        elif os.access(parent, os.W_OK):
            make_folders(parent)
        else:
            return
        settle(path)


def write_whole(path: str, data: bytes) -> None:
    """Write a small file so that its name shows the old bytes or the new ones, never a part, also after power loss."""
    make_folders(os.path.dirname(path))
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    fsync_folder(os.path.dirname(path))

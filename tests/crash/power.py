"""Power loss, from a trace of system calls: which folders could be found after the power came back?

The model is POSIX at its strictest. A file's bytes are safe once the file was fsynced, its name once its folder was. Until then each
change of a name may be there or not, on its own, and bytes may be old, missing, cut or zeros.
"""

from __future__ import annotations

import codecs
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,truncate,ftruncate,fallocate,copy_file_range,sendfile,splice"
)
STRACE = ("strace", "-f", "-y", "-s", "100000000", "-e", f"trace={CALLS}", "-e", "signal=none")

_LINE = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PATH = re.compile(r'(?:(?:\d+|AT_FDCWD)<((?:[^>\\]|\\.)*)>, )?"((?:[^"\\]|\\.)*)"')
_FD = re.compile(r"(-?\d+|AT_FDCWD)<((?:[^>\\]|\\.)*)>")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded: its name, the paths and strings it was given, and all of its text."""

    name: str
    paths: tuple[str, ...]
    data: bytes = b""
    text: str = ""


def calls(trace: Path) -> Iterator[Call]:
    """Yield the calls of a trace that succeeded, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in trace.read_text("latin-1").splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        thread, text = match.groups()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text[: -len("<unfinished ...>")]
            continue
        if text.startswith("<... "):
            text = begun.pop(thread) + text.split("resumed>", 1)[1]
        found = _CALL.match(text)
        if found and not found[3].startswith(("-", "?")):
            yield _call(found[1], found[2], found[4])


def _call(name: str, arguments: str, result: str) -> Call:
    if name.startswith(("write", "pwrite", "fsync", "fdatasync", "ftruncate", "fallocate")):
        found = _FD.match(arguments)
        return Call(name, (found[2],) if found else (), b"".join(map(_plain, _STRING.findall(arguments))))
    paths = tuple(os.fsdecode(os.path.join(_plain(folder), _plain(path))) for folder, path in _PATH.findall(arguments))
    if "pen" in name and ("O_CREAT" in arguments or "O_TRUNC" in arguments):
        return Call("create", paths, text=arguments[-200:])
    return Call(name.replace("at2", "").removesuffix("at") if name != "creat" else "create", paths)


def _plain(escaped: str) -> bytes:
    return bytes(codecs.escape_decode(escaped.encode("latin-1"))[0])


@dataclass(eq=False)
class _Node:
    """A file, as a process sees it (`data`) and as it is safe (`synced`); `None` stands for a folder."""

    data: bytes | None
    synced: bytes | None = None
    source: str | None = None
    """A file that holds `data`, with its times, as long as it was not changed."""


@dataclass(frozen=True)
class _Change:
    folder: str
    name: str
    node: _Node | None
    """What the name stands for from here on; `None` where it is gone."""
    also: str | None = None
    """The old name, which a rename takes away in one."""


@dataclass
class Disk:
    """A folder on disk, followed call by call.

    Args:
        root: The folder that was traced.
        base: A copy of it from before the trace, all of it safe.
    """

    root: str
    base: str
    live: dict[str, _Node] = field(default_factory=dict)
    safe: dict[str, _Node] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder, _, names in os.walk(self.base):
            inside = os.path.relpath(folder, self.base).removeprefix(".")
            self.live[os.path.normpath(f"{self.root}/{inside}")] = _Node(None)
            for name in names:
                data = Path(folder, name).read_bytes()
                node = _Node(data, data, os.path.join(folder, name))
                self.live[os.path.normpath(f"{self.root}/{inside}/{name}")] = node
        self.live.setdefault(os.path.dirname(self.root), _Node(None))
        self.safe = dict(self.live)

    def does(self, call: Call) -> bool:
        """Follow a call, and return whether it changed this folder or what of it is safe."""
        around = (self.root, os.path.dirname(self.root))
        if not any(path in around or path.startswith(f"{self.root}/") for path in call.paths) or call.name.startswith("open"):
            return False
        path = call.paths[0]
        if call.name == "create":
            if path in self.live and "O_TRUNC" not in call.text:
                return False
            if path in self.live:
                self.live[path].data, self.live[path].source = b"", None
            else:
                self._change(path, _Node(b""))
        elif call.name == "write":
            node = self.live[path]
            assert node.data is not None
            node.data, node.source = node.data + call.data, None
        elif call.name in ("fsync", "fdatasync"):
            node = self.live[path]
            if node.data is not None:
                changed, node.synced = node.synced != node.data, node.data
                return changed
            done = [change for change in self.pending if change.folder == path]
            self.pending = [change for change in self.pending if change.folder != path]
            _apply(self.safe, done)
            return bool(done)
        elif call.name == "mkdir":
            self._change(path, _Node(None))
        elif call.name in ("unlink", "rmdir"):
            self._change(path, None)
        elif call.name == "link":
            self._change(call.paths[1], self.live[path])
        elif call.name == "rename":
            assert os.path.dirname(path) == os.path.dirname(call.paths[1])
            self._change(call.paths[1], self.live[path], also=path)
        else:
            raise AssertionError(f"the model does not know {call.name} of {call.paths}")
        return True

    def leave(self, at: Path, how: str, seed: int = 0) -> bytes:
        """Make the folder that is found after the accident, and return what tells it from others.

        Args:
            at: Where; not there yet.
            how: `kill` leaves what the process saw, `least` only what is safe; `log` beside that all of the log, `gone` beside that
                all removals; `names` all names but no byte that is not safe, `cut` and `zeros` all names and a part of the bytes,
                `random` any of these for each name and file.
            seed: For `random`.
        """
        rng = random.Random(seed)
        keep = {
            "least": lambda change: False,
            "log": lambda change: change.folder.endswith("_delta_log"),
            "gone": lambda change: change.node is None,
            "random": lambda change: rng.random() < 0.5,
        }.get(how, lambda change: True)
        kept = [change for change in self.pending if keep(change)]
        names = dict(self.safe)
        _apply(names, kept)
        identity = []
        there = {os.path.dirname(self.root)}
        for path in sorted(names.keys() - there):
            if os.path.dirname(path) not in there:
                continue  # its folder is lost, and it is lost with it
            inside, node = os.path.relpath(path, self.root), names[path]
            target = at / inside
            if node.data is None:
                there.add(path)
                target.mkdir()
                identity.append(inside)
            else:
                data = (
                    node.data
                    if node.data == node.synced
                    else _damaged(node, "kill" if how == "log" and "/_delta_log/" in path else how, rng)
                )
                identity.append(f"{inside} {hash(data)}")
                target.write_bytes(data)
                if node.source:
                    shutil.copystat(node.source, target)
        return "\n".join(identity).encode()

    def _change(self, path: str, node: _Node | None, also: str | None = None) -> None:
        change = _Change(os.path.dirname(path), path, node, also)
        _apply(self.live, [change])
        self.pending.append(change)


def _apply(names: dict[str, _Node], changes: list[_Change]) -> None:
    for change in changes:
        if change.also:
            names.pop(change.also, None)
        if change.node is None:
            names.pop(change.name, None)
        else:
            names[change.name] = change.node


def _damaged(node: _Node, how: str, rng: random.Random) -> bytes:
    """Return what is found of a file that was not synced since it was last written."""
    assert node.data is not None
    how = rng.choice(("kill", "least", "cut", "zeros")) if how == "random" else how
    if how == "kill":
        return node.data
    if how == "cut":
        return node.data[: len(node.data) // 2]
    if how == "zeros":
        return bytes(len(node.data))
    return node.synced or b""

"""Finds loaders, exporters, codecs and executors by name: built-ins from a table of strings, others from entry points."""

from __future__ import annotations

import functools
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from fogx.errors import PluginClashError, UnknownPluginError, did_you_mean, listing

_RTX = "fogx.formats.rtx"

BUILTIN: dict[str, dict[str, str]] = {
    "codecs": {
        "jpeg": "fogx.codecs.jpeg:JpegCodec",
        "png": "fogx.codecs.png:PngCodec",
        "zstd": "fogx.codecs.zstd:ZstdCodec",
    },
    "executors": {"inline": "fogx.executors.inline:InlineExecutor"},
    "exporters": dict.fromkeys(("open-x", "rlds", "rtx"), f"{_RTX}.exporter:RtxExporter"),
    "loaders": dict.fromkeys(("open-x", "rlds", "rtx"), f"{_RTX}.loader:RtxLoader"),
}
"""`module:attribute` of everything that ships with fogx, by kind and name."""


def names(kind: str) -> list[str]:
    """Return the sorted names of all plug-ins of a kind (`loaders`, `exporters`, `codecs`, `executors`)."""
    return sorted(_table(kind))


@functools.cache
def get(kind: str, name: str) -> Any:
    """Return the one instance of a plug-in, importing it on first use.

    Raises:
        UnknownPluginError: No plug-in of that name; lists those there are.
        PluginClashError: Two packages offer it.
    """
    table = _table(kind)
    if name not in table:
        raise UnknownPluginError(
            f"no {kind[:-1]} named {name!r}; available: {listing(sorted(table))}.{did_you_mean(name, table)}"
        )
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)()


@functools.cache
def _table(kind: str) -> dict[str, str]:
    table = dict(BUILTIN[kind])
    for entry in entry_points(group=f"fogx.{kind}"):
        if table.get(entry.name, entry.value) != entry.value:
            raise PluginClashError(
                f"two {kind} are named {entry.name!r}: {table[entry.name]} and {entry.value}. Uninstall one of the packages."
            )
        table[entry.name] = entry.value
    return table

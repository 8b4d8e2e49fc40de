"""Exports a selection: one schema, streamed, to a folder that does not exist yet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm

from fogx import registry
from fogx.errors import ExistsError, SelectionError, StorageError, listing
from fogx.feature import Feature, Schema
from fogx.protocols import EpisodeData, Exporter
from fogx.reading.episodes import cell_types, locate, one_schema, read_data
from fogx.reading.roots import Chosen, Root
from fogx.settings import config
from fogx.storage.files.paths import canonical_root, is_url, join
from fogx.storage.log.rows import EDITABLE

logger = logging.getLogger("fogx")

_DTYPES = {bool: "bool", int: "int64", float: "float64", str: "str", bytes: "bytes"}


def export_episodes(
    write: Root,
    chosen: Chosen,
    format: str,
    path: str | os.PathLike[str] | None,
    name: str | None,
    options: Any,
) -> str:
    """Write the chosen episodes, in their order, and return the folder; see `Dataset.export`."""
    exporter: Exporter = registry.get("exporters", format)
    schema = one_schema(chosen, f"export to {format!r}")
    if schema is None:
        raise SelectionError("nothing to export: the selection holds no episodes. Select at least one.")
    name = name or _name(chosen)
    base = canonical_root(path) if path is not None else join(write.path, "exports", exporter.name)
    if is_url(base):
        raise StorageError(f"exports are written to a local folder, not to {base}. Give path= a local folder, and copy it there.")
    version = options.pop("version", None) or ("1.0.0" if path is not None else _next_version(os.path.join(base, name)))
    target = os.path.join(base, name, version)
    if os.path.lexists(target):
        raise ExistsError(f"{target} exists already; nothing was written. Give another path= or version=, or move it away.")
    located = locate(chosen)
    left_out = {key for member in located for key in member.index.metadata if key not in schema.episode_fields}
    if left_out:
        logger.warning("export to %s: metadata %s is not a single value and was left out", target, listing(sorted(left_out)))
    options.setdefault("metadata_features", _metadata_features(chosen, schema))
    with tqdm(total=len(chosen), unit="episode", desc=f"export {format}", disable=not config().progress) as bar:
        return exporter.export(_counted(map(read_data, located), bar), schema, target, name=name, version=version, **options)


def _counted(episodes: Iterator[EpisodeData], bar: Any) -> Iterator[EpisodeData]:
    for episode in episodes:
        yield episode
        bar.update()


def _name(chosen: Chosen) -> str:
    """Return the name that most of the episodes came under, made fit for a folder."""
    counts = {str(count["values"]): count["counts"] for count in chosen.column("dataset").value_counts().to_pylist()}
    common = max(sorted(counts), key=counts.__getitem__)
    kept = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in common.lower())
    return kept if kept[:1].isalpha() else f"fogx_{kept}"


def _next_version(folder: str) -> str:
    major = 1
    while os.path.lexists(os.path.join(folder, f"{major}.0.0")):
        major += 1
    return f"{major}.0.0"


def _metadata_features(chosen: Chosen, schema: Schema) -> dict[str, Feature]:
    """Return a feature for each column that users added: known before the stream begins, and one for all episodes."""
    kinds: dict[str, set[str]] = {}
    for _, rows, _ in chosen.by_root():
        for key, kind in cell_types(rows).items():
            if key not in schema.episode_fields and key not in EDITABLE:
                kinds.setdefault(key, set()).update(_DTYPES[one] for one in kind)
    mixed = {key for key, found in kinds.items() if len(found) > 1}
    if mixed:
        raise SelectionError(
            f"metadata {sorted(mixed)[0]!r} has values of several types; make them one type with update_episode_info()."
        )
    return {key: Feature(found.pop(), ()) for key, found in kinds.items()}

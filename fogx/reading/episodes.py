"""What lies behind rows: their index rows, schemas and places, read file by file."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fogx import registry
from fogx.errors import CorruptDataError, SchemaMismatchError, listing
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData
from fogx.reading.roots import Chosen, Root, read_index_files
from fogx.storage.log.rows import BASE, EDITABLE, extra_values
from fogx.storage.tables.anew import read_samples
from fogx.storage.tables.digest import digest, is_checksum
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import SHARED, IndexRow, check_index, read_index, read_schema
from fogx.storage.tables.steps import read_steps


@dataclass(frozen=True)
class Located:
    """One episode with its index row.

    Args:
        root: The root that holds it.
        rows: The root's rows when it was chosen.
        position: Its row there.
        index: Its index row, with the parts that were asked for.
    """

    root: Root
    rows: pa.Table
    position: int
    index: IndexRow

    @property
    def row(self) -> pa.Table:
        """Its row, as a table of one."""
        return self.rows.slice(self.position, 1)

    @property
    def episode_id(self) -> str:
        """The episode's id."""
        return self.index.episode_id

    @property
    def schema(self) -> Schema:
        """The episode's schema."""
        return read_schema(self.root.store, self.index.schema_id)


def locate(chosen: Chosen, parts: Sequence[str] = ("steps", "frames", "streams", "metadata", "derived")) -> list[Located]:
    """Read the index rows of episodes, each index file once; the order is kept."""
    result: list[Located | None] = [None] * len(chosen)
    for root, pointers, positions in chosen.by_root(["index_file", "index_row", *SHARED]):
        rows = chosen.tables[chosen.root[positions[0]]]
        said = pointers.select(SHARED).to_pylist()
        read = functools.partial(read_index, root.store, parts=parts)
        for same, found in read_index_files(root, pointers, read):
            for number, index in zip(same.tolist(), found, strict=True):
                check_index(root.path, said[number], index)
                position = positions[number]
                result[position] = Located(root, rows, int(chosen.row[position]), index)
    return [located for located in result if located is not None]


def decoder(feature: Feature) -> Callable[[bytes], Any]:
    """Return what turns stored bytes of an encoded feature into the value that users see: an array, or long text."""
    codec = registry.get("codecs", str(feature.encoding))

    def decode(blob: bytes) -> Any:
        value = codec.decode(blob, feature)
        return value.item() if value.dtype == object and value.ndim == 0 else value

    return decode


def cells(rows: pa.Table, row: int) -> dict[str, object]:
    """Return the cells of a row that a user may set, by name, without the empty ones."""
    values = {name: rows[name][row].as_py() for name in rows.column_names if name not in BASE.names or name in EDITABLE}
    values |= extra_values(rows["_extra"][row].as_py())
    return {name: value for name, value in values.items() if value is not None}


def cell_types(rows: pa.Table) -> dict[str, set[type]]:
    """Return the types that the values of `cells` have in some of the rows, by name."""
    names = [name for name in rows.column_names if name not in BASE.names or name in EDITABLE]
    # All values of a column are of one type, so the first speaks for it.
    types = {name: {type(pc.first(rows[name]).as_py())} for name in names if rows[name].null_count < len(rows)}
    for text in rows["_extra"].drop_null().to_pylist():
        for name, value in extra_values(text).items():
            types.setdefault(name, set()).add(type(value))
    return types


def read_data(located: Located, *, frames: bool = True) -> EpisodeData:
    """Read one whole episode into memory: exact values, encoded frames.

    Args:
        located: The episode, with the parts `steps`, `frames`, `streams` and `metadata`.
        frames: Whether to read frames; without, numbers stand in their place.
    """
    schema, store, index = located.schema, located.root.store, located.index
    columns = read_steps(store, index.steps, schema, ["timestamp_ns", *schema])
    times = columns.pop("timestamp_ns")
    samples = read_samples(store, index, schema, columns)
    if samples is not None:
        samples.columns = _with_frames(located, samples.columns, False, frames)
    columns = _with_frames(located, columns, samples is not None, frames)
    own = cells(located.row, 0)
    return EpisodeData(
        schema,
        columns,
        index.num_steps,
        None if times.valid is not None else times.values,
        metadata={**index.metadata, **{k: v for k, v in own.items() if k not in EDITABLE}},
        dataset=located.row["dataset"][0].as_py(),
        split=located.row["split"][0].as_py(),
        control_hz=located.row["control_hz"][0].as_py(),
        success=located.row["success"][0].as_py(),
        source_key=located.row["source_key"][0].as_py(),
        episode_id=located.episode_id,
        samples=samples,
    )


def _with_frames(located: Located, columns: Mapping[str, Column], numbered: bool, frames: bool) -> dict[str, Column]:
    """Return columns with encoded bytes in the place of frame numbers, which are kept where steps repeat or leave out frames."""
    found = dict(columns)
    for name in [name for name, feature in located.schema.items() if feature.in_frames]:
        numbers = columns[name]
        kept = np.where(numbers.mask, numbers.values, 0) if numbered else None
        found[name] = Column(_blobs(located, name, numbers) if frames else numbers.values, numbers.valid, kept)
    return found


def _blobs(located: Located, name: str, numbers: Column) -> np.ndarray:
    blobs = np.empty(len(numbers.values), dtype=object)
    wanted = numbers.mask
    unique, back = np.unique(numbers.values[wanted], return_inverse=True)
    frames = read_frames(located.root.store, located.index.frames_of(name), unique)
    for row, number in zip(np.flatnonzero(wanted).tolist(), back.tolist(), strict=True):
        blobs[row] = frames[number]
    return blobs


def read_sound(located: Located, *, frames: bool = True) -> EpisodeData:
    """Read one whole episode, as `read_data`, and hold it against its checksum.

    Args:
        located: As for `read_data`.
        frames: As for `read_data`; frames that are not read are not looked at.

    Raises:
        CorruptDataError: It cannot be read, or is no longer what was stored.
    """
    data = read_data(located, frames=frames)
    if not is_checksum(located.index.checksum, digest(data), located.index.frames):
        raise CorruptDataError(
            f"{located.root.path}: episode {located.episode_id} is not what was stored, by its checksum. check(deep=True) says what "
            "is damaged."
        )
    return data


def read_derived(located: Located) -> dict[str, list[bytes]]:
    """Return an episode's frames in other sizes, encoded, by name (see `storage/tables/derived.py`).

    Raises:
        CorruptDataError: Some cannot be read.
    """
    places = sorted(located.index.derived, key=lambda place: (place.feature, place.first_frame))
    found = {name: list(mine) for name, mine in itertools.groupby(places, key=lambda place: place.feature)}
    return {
        name: read_frames(located.root.store, mine, np.arange(sum(len(place.lengths) for place in mine)))
        for name, mine in found.items()
    }


def one_schema(chosen: Chosen, what: str) -> Schema | None:
    """Return the schema that all episodes share, or `None` for no episodes.

    Raises:
        SchemaMismatchError: Groups the episodes by schema and says how to choose one group.
    """
    table = chosen.table(["schema_id", "dataset", "episode_id"])
    schema_ids = table["schema_id"].unique().to_pylist()
    first = {i: chosen.roots[chosen.root[table["schema_id"].index(i).as_py()]] for i in schema_ids}
    schemas = {schema_id: read_schema(root.store, schema_id) for schema_id, root in first.items()}
    if len(schemas) > 1:
        lines = []
        for schema_id in schema_ids:
            members = table.filter(pc.equal(table["schema_id"], schema_id))
            datasets = sorted(str(name) for name in members["dataset"].unique().to_pylist())
            lines.append(
                f"  {len(members)} of dataset {listing(datasets, most=3)} (first {members['episode_id'][0]}): "
                f"{_unlike(schema_id, schemas)}"
            )
        raise SchemaMismatchError(
            f"{what} needs episodes of one schema; the {len(chosen)} selected have {len(schemas)}:\n" + "\n".join(lines) + "\n"
            'Select one group, e.g. info.filter(info["dataset"] == ...).'
        )
    return next(iter(schemas.values()), None)


def _unlike(schema_id: str, schemas: dict[str, Schema]) -> str:
    mine = schemas[schema_id]
    others = [schema for other, schema in schemas.items() if other != schema_id]
    unlike = [name for name, f in mine.items() if any(other.features.get(name) != f for other in others)]
    return (
        listing((f"{name} {mine[name].describe()}" for name in unlike), most=5)
        if unlike
        else "the same features in another order"
    )

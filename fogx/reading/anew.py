"""Steps made anew, when they are read, from the samples that were kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from polars.io.plugins import register_io_source

from fogx.align.policy import Align
from fogx.errors import FeatureError, SelectionError, did_you_mean, listing
from fogx.feature import Schema
from fogx.reading.episodes import Located, locate
from fogx.reading.roots import Chosen
from fogx.storage.tables.anew import Anew, read_anew
from fogx.storage.tables.index import read_schema
from fogx.storage.tables.steps import steps_schema, steps_table

_AT_ONCE = 64
"""Index rows that are looked up together."""


def check_align(chosen: Chosen, policy: Any, *, stored: bool = False) -> None:
    """Refuse a policy that does not fit the episodes, before anything is read of their samples.

    Args:
        chosen: The episodes.
        policy: What was given as `align=`.
        stored: Whether the steps are to be stored; episodes without times are then refused even where their rate is known.

    Raises:
        FeatureError: No `fox.Align`, or a feature that no episode has, or a clock that some have not.
        SelectionError: Episodes without times; names them and says what to do.
    """
    if not isinstance(policy, Align):
        raise FeatureError(f"align= is a fox.Align, found {type(policy).__name__}.")
    table = chosen.table(["episode_id", "schema_id", "start_ns", "num_steps", "control_hz"])
    first = {schema_id: table["schema_id"].index(schema_id).as_py() for schema_id in table["schema_id"].unique().to_pylist()}
    schemas = {schema_id: read_schema(chosen.roots[chosen.root[at]].store, schema_id) for schema_id, at in first.items()}
    known = sorted({name for schema in schemas.values() for name in schema})
    for name in {*policy.features, *policy.latency_s, *filter(None, [policy.reference])} if schemas else ():
        if name not in known:
            raise FeatureError(
                f"align: no episode has the feature {name!r}; there are {listing(known)}.{did_you_mean(name, known)}"
            )
    without = [i for i, schema in schemas.items() if policy.reference is not None and policy.reference not in schema.features]
    if without:
        lacking = table.filter(pc.is_in(table["schema_id"], pa.array(without)))["episode_id"].to_pylist()
        raise FeatureError(
            f"align: {len(lacking)} of {len(table)} episodes have no feature {policy.reference!r} whose samples could be steps: "
            f"{listing(lacking, most=3)}. Leave them out, or align them by rate_hz= or union=True."
        )
    untimed = pc.and_(pc.is_null(table["start_ns"]), pc.greater(table["num_steps"], 0))
    untimed = untimed if stored else pc.and_(untimed, pc.is_null(table["control_hz"]))
    ids = table.filter(untimed)["episode_id"].to_pylist()
    if ids:
        remedy = (
            "get_step_data(align=...) aligns those whose control_hz is known"
            if stored
            else "if you know how many steps a second they have, dataset.tag(episodes, control_hz=...) says so"
        )
        raise SelectionError(
            f"align: {len(ids)} of {len(table)} episodes have no times, so no steps can be made anew: {listing(ids, most=3)}. Leave them "
            f'out (info[info["start_ns"].notna()]); {remedy}.'
        )


def each_anew(chosen: Chosen, policy: Align) -> Iterator[Anew]:
    """Yield the steps of each episode, made anew; no frame is read.

    Raises:
        FeatureError: As `make_anew`.
    """
    for _, made in _members_anew(chosen, policy):
        yield made


def _members_anew(chosen: Chosen, policy: Align) -> Iterator[tuple[Located, Anew]]:
    for first in range(0, len(chosen), _AT_ONCE):
        for member in locate(chosen.at(np.arange(first, min(first + _AT_ONCE, len(chosen)))), ("steps", "streams")):
            hz = member.row["control_hz"][0].as_py()
            yield member, read_anew(member.root.store, member.index, member.schema, policy, hz)


def scan_anew(chosen: Chosen, schema: Schema, policy: Align, types: Mapping[str, Any]) -> pl.LazyFrame:
    """Return the steps of episodes of one schema, made anew as they are collected, one episode in memory at a time.

    Args:
        chosen: The episodes.
        schema: Their schema.
        policy: How.
        types: Column → polars type, of all columns; frames are numbers.
    """

    def read(names: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None) -> Iterator[pl.DataFrame]:
        arrow = steps_schema(schema)
        wanted = pa.schema([arrow.field(name) for name in (types if names is None else names)])
        for member, made in _members_anew(chosen, policy):
            table = steps_table(wanted, schema, member.episode_id, made.columns, made.num_steps, {"timestamp_ns": made.times_ns})
            batch = pl.DataFrame(table)
            found = batch if predicate is None else batch.filter(predicate)
            yield found if rows is None else found.head(rows)
            rows = None if rows is None else rows - found.height
            if rows is not None and rows <= 0:
                return

    return register_io_source(read, schema=pl.Schema(types), is_pure=True, explain_name="fogx steps, aligned anew")

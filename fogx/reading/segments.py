"""The segments of episodes as users see them: a pandas DataFrame, one row a segment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fogx.reading.roots import Chosen
from fogx.reading.table import nullable
from fogx.storage.files.store import Store
from fogx.storage.tables.segments import check_label, read_segments, values_of

COLUMNS = (
    "episode_id", "label", "start_s", "stop_s", "start_ns", "stop_ns", "start_step", "stop_step", "from_start", "to_end", "value",
    "source",
)  # fmt: skip

_NEEDED = ["episode_id", "start_ns", "duration_ns", "num_steps", "control_hz", "segments_file"]


def segments_frame(chosen: Chosen, label: str | None) -> pd.DataFrame:
    """Return the segments of episodes, in their order; see `Dataset.segments`."""
    label = None if label is None else check_label(label)
    parts, places = [], [np.zeros(0, np.int64)]
    for root, rows, positions in chosen.by_root(_NEEDED):
        table = read_segments(root.store, rows, label)
        parts.append(shown(rows, table))
        places.append(positions[table["number"].to_numpy()])
    if not parts:
        nobody = chosen.table(_NEEDED)
        return shown(nobody, read_segments(chosen.roots[0].store, nobody))
    frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return frame.iloc[np.argsort(np.concatenate(places), kind="stable")].reset_index(drop=True)


def segments_of_row(store: Store, row: pa.Table) -> pd.DataFrame:
    """Return the segments of one episode; see `EpisodeView.segments`."""
    row = row.select(_NEEDED)
    return shown(row, read_segments(store, row))


def shown(rows: pa.Table, table: pa.Table) -> pd.DataFrame:
    """Return segments as `Dataset.segments` shows them.

    Args:
        rows: Rows of the episodes table.
        table: What `read_segments` gave of them.
    """
    origin, duration, hz, total = (
        rows[name].take(table["number"]) for name in ("start_ns", "duration_ns", "control_hz", "num_steps")
    )
    # Half-open: the last step is in it.
    end = pc.add(pc.add(origin, duration), 1)
    times = {"start": pc.coalesce(table["start_ns"], origin), "stop": pc.coalesce(table["stop_ns"], end)}
    columns = {name: nullable(table[name]) for name in ("episode_id", "label", "start_step", "stop_step", "source")}
    # Where there are no times, steps say it: they stay as they are.
    at_step = {"from_start": pc.equal(table["start_step"], 0), "to_end": pc.equal(table["stop_step"], total)}
    for name, ns in zip(at_step, (table["start_ns"], table["stop_ns"]), strict=True):
        columns[name] = nullable(pc.if_else(pc.is_valid(origin), pc.is_null(ns), at_step[name]))
    for name, ns in times.items():
        since = pc.divide(_floats(pc.subtract(ns, origin)), 1e9)
        columns[f"{name}_s"] = nullable(pc.coalesce(since, pc.divide(_floats(table[f"{name}_step"]), hz)))
        columns[f"{name}_ns"] = nullable(ns)
    columns["value"] = pd.Series(values_of(table), dtype=object)
    return pd.DataFrame({name: columns[name] for name in COLUMNS})


def _floats(numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    return numbers.cast(pa.float64(), safe=False)

"""What a handle shows of itself: one line, a notebook card, its history, and what was removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fogx.reading.roots import Root, Roots
from fogx.show.html import card


def line(roots: Roots) -> str:
    """Return the one-line repr: counts from the tables at hand, nothing read."""
    others = f", also reads {', '.join(root.path for root in roots.all[1:])}" if len(roots.all) > 1 else ""
    access = "reads" if roots.write.read_only else "writes to"
    new = " (not created yet)" if roots.write.log is None else ""
    return f"<fogx.Dataset {roots.write.name!r}: {_episodes(roots)}, {_steps(roots):,} steps; {access} {roots.write.path}{new}{others}>"


def html(roots: Roots) -> str:
    """Return the notebook card."""
    facts = {
        "episodes": f"{len(roots.chosen()):,}",
        "steps": f"{_steps(roots):,}",
        "read-only" if roots.write.read_only else "writes to": roots.write.path,
    }
    if len(roots.all) > 1:
        facts["also reads"] = ", ".join(root.path for root in roots.all[1:])
    chosen = roots.chosen()
    table = chosen.table(["dataset", "split", "num_steps"]).append_column("root", pa.array(chosen.root))
    groups = table.group_by(["dataset", "split", "root"]).aggregate([("num_steps", "count"), ("num_steps", "sum")])
    most = groups.sort_by([("num_steps_count", "descending")]).slice(0, 12).to_pylist()
    rows = [
        (
            str(group["dataset"]),
            group["split"] or "",
            f"{group['num_steps_count']:,}",
            f"{group['num_steps_sum']:,}",
            roots.all[group["root"]].path,
        )
        for group in most
    ]
    note = f"… and {groups.num_rows - len(most)} more" if groups.num_rows > len(most) else ""
    return card(f"fogx dataset {roots.write.name!r}", facts, ("dataset", "split", "episodes", "steps", "root"), rows, note)


def history_frame(root: Root) -> pd.DataFrame:
    """Return the commits of a root, newest first; empty before the first write."""
    entries = root.log.history() if root.log else []
    frame = pd.DataFrame(entries, columns=["version", "timestamp_ms", "operation", "episodes", "user", "pins"])
    frame.insert(1, "time", pd.to_datetime(frame.pop("timestamp_ms"), unit="ms", utc=True))
    return frame.astype({"version": "Int64", "episodes": "Int64", "operation": "string", "user": "string", "pins": "string"})


def vacuum_frame(removed: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the files that `vacuum` removed, or would."""
    frame = pd.DataFrame(removed, columns=["file", "bytes", "age_s"])
    return frame.astype({"file": "string", "bytes": "Int64", "age_s": "Float64"})


def _episodes(roots: Roots) -> str:
    count = len(roots.chosen())
    return "1 episode" if count == 1 else f"{count:,} episodes"


def _steps(roots: Roots) -> int:
    return int(pc.sum(roots.chosen().column("num_steps")).as_py() or 0)

"""What a handle shows of itself: one line, a notebook card, its history, and what was removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

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
    counts: Counter[tuple[str, str, str]] = Counter()
    steps: Counter[tuple[str, str, str]] = Counter()
    columns = {id(root): root.rows.select(["dataset", "split", "num_steps"]).to_pylist() for root in roots.all}
    for root, position in roots.chosen():
        row = columns[id(root)][position]
        key = (str(row["dataset"]), row["split"] or "", root.path)
        counts[key] += 1
        steps[key] += row["num_steps"]
    most = counts.most_common(12)
    rows = [(dataset, split, f"{n:,}", f"{steps[dataset, split, path]:,}", path) for (dataset, split, path), n in most]
    note = f"… and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
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
    counts = {id(root): root.rows["num_steps"].to_pylist() for root in roots.all}
    return sum(counts[id(root)][row] for root, row in roots.chosen())

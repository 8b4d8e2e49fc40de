"""Small HTML for notebooks. All text is escaped: names and metadata come from data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_BOX = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:60em"
_CELL = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"


def card(title: str, facts: Mapping[str, str], header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """Return a titled block: facts as `name value` pairs, then a table.

    Args:
        title: Heading.
        facts: Label → text.
        header: Column titles.
        rows: Cells, as many a row as titles.
        note: A line below the table.
    """
    pairs = "".join(
        f'<tr><td style="{_CELL};opacity:.65">{escape(k)}</td><td style="{_CELL}">{escape(v)}</td></tr>' for k, v in facts.items()
    )
    head = "".join(f'<th style="{_CELL};border-bottom:1px solid #8884">{escape(h)}</th>' for h in header)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{escape(str(c))}</td>' for c in row) + "</tr>" for row in rows)
    table = f'<table style="border-collapse:collapse;margin-top:6px"><tr>{head}</tr>{body}</table>' if body else ""
    foot = f'<div style="opacity:.65">{escape(note)}</div>' if note else ""
    return f'<div style="{_BOX}"><b>{escape(title)}</b><table style="border-collapse:collapse">{pairs}</table>{table}{foot}</div>'

"""Plots of what sensors sent and of the steps that were made from it. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fogx.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 2_000
"""Samples, and steps, that are drawn of one element; of more, every second, third, … one."""

MOST_LINKS = 250
"""Up to so many steps in sight, a line goes from each to its sample; more would be a smear."""

MOST_ELEMENTS = 4
"""Elements of an array that are drawn."""

_COLOURS = ("#1f6fb4", "#d9730d", "#2f8f4e", "#8250a8")
_INK, _GREY, _FAINT, _MISSING, _GAP = "#24292f", "#57606a", "#d0d7de", "#c62828", "#fdecea"
_WIDTH, _NUMBERS, _EVENTS, _PICTURES = 10.0, 1.25, 0.8, 1.65
_THUMB_POINTS = 46


@dataclass(frozen=True)
class Track:
    """One feature: what its sensor sent, and what the steps have of it.

    Args:
        name: Name of the feature, with its unit.
        rule: How steps took it, in words; empty where there are no times.
        sent_s: `(N,)` float64, times of the samples in s; the same clock as that of the steps.
        sent: `(N, K)` float64; `None` for images and text, whose times alone are drawn.
        taken: `(T,)` int64, number of the sample that each step took; −1 where it has no value.
        at_steps: `(T, K)` float64, what the steps have; `None` where `sent` is.
        elements: Names of the K elements, where they have any.
        interpolated: Whether steps lie on the lines between samples.
        picture: Gives the image of a sample by its number; `None` where there is none.
    """

    name: str
    rule: str
    sent_s: np.ndarray
    sent: np.ndarray | None
    taken: np.ndarray
    at_steps: np.ndarray | None
    elements: Sequence[str] = ()
    interpolated: bool = False
    picture: Callable[[int], np.ndarray] | None = None

    def at(self, steps: np.ndarray) -> Track:
        """Return the track of some of the steps, by their numbers."""
        return replace(self, taken=self.taken[steps], at_steps=None if self.at_steps is None else self.at_steps[steps])


def alignment(title: str, axis: str, steps_s: np.ndarray, tracks: Sequence[Track], start_s: float, stop_s: float) -> Figure:
    """Draw a row for each feature: its samples as dots, the values of the steps as rings, and a line from each to its sample.

    Args:
        title: Heading.
        axis: What the times are.
        steps_s: `(T,)` float64, times of the steps in s.
        tracks: The features, one or more.
        start_s: Where the picture begins, inclusive.
        stop_s: Where it ends, exclusive; after `start_s`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise missing_extra("matplotlib", "plot", "plot()") from None

    heights = [_NUMBERS if track.sent is not None else _PICTURES if track.picture else _EVENTS for track in tracks]
    # Not pyplot: it keeps every figure, and opens windows.
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.15), layout="constrained", facecolor="white")
    rows = figure.subplots(len(tracks), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    edge = max((stop_s - start_s) * 0.012, 1e-3)
    rows[0].set_xlim(start_s - edge, stop_s + edge)
    seen = _thinned(np.flatnonzero((steps_s >= start_s) & (steps_s < stop_s)))
    for row, track in zip(rows, tracks, strict=True):
        _draw(row, track, steps_s, seen, (start_s, stop_s))
    rows[-1].set_xlabel(axis, color=_INK)
    signs = [
        Line2D([], [], color=_INK, marker="o", markersize=3.5, linestyle="none", label="sample, as the sensor sent it"),
        Line2D(
            [], [], color=_INK, marker="o", markersize=6.5, markerfacecolor="white", linestyle="none", label="value at a step"
        ),
        Line2D([], [], color=_INK, linewidth=1.2, label="from a step to its sample"),
        Line2D([], [], color=_MISSING, marker="x", markersize=6, linestyle="none", label="step without a value"),
    ]
    figure.suptitle(title, fontsize=12, color=_INK)
    figure.legend(handles=signs, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=_INK)
    return figure


def _draw(row: Axes, track: Track, steps_s: np.ndarray, seen: np.ndarray, sight: tuple[float, float]) -> None:
    inside = np.flatnonzero((track.sent_s >= sight[0]) & (track.sent_s < sight[1]))
    sent = _thinned(inside)
    has = seen[track.taken[seen] >= 0]
    gaps = seen[track.taken[seen] < 0]
    if len(seen) <= MOST_LINKS:
        row.vlines(steps_s[seen], 0, 1, transform=row.get_xaxis_transform(), colors=_FAINT, linewidth=0.7, zorder=0.5)
    if track.sent is None or track.at_steps is None:
        _events(row, track, steps_s, has, sent)
    else:
        _numbers(row, track, steps_s, has, sent)
    if len(gaps):
        across = row.get_xaxis_transform()
        half = float(np.median(np.diff(steps_s[seen]))) / 2 if len(seen) > 1 else 0.0
        bands = [(time - half, 2 * half) for time in steps_s[gaps]]
        row.broken_barh(bands, (0, 1), transform=across, color=_GAP, linewidth=0, zorder=0)
        row.plot(steps_s[gaps], np.full(len(gaps), 0.1), "x", color=_MISSING, transform=across, zorder=5, label="gaps")
    for spine in ("top", "right"):
        row.spines[spine].set_visible(False)
    row.tick_params(labelsize=9, colors=_INK)
    row.set_title(track.name, loc="left", fontsize=10, fontweight="bold", color=_INK, pad=4)
    row.set_title(_about(track, inside, sent), loc="right", fontsize=9, color=_GREY, pad=4)


def _numbers(row: Axes, track: Track, steps_s: np.ndarray, has: np.ndarray, sent: np.ndarray) -> None:
    assert track.sent is not None
    assert track.at_steps is not None
    for element, colour in zip(range(track.sent.shape[1]), _COLOURS, strict=False):
        values, at_steps = track.sent[:, element], track.at_steps[has, element]
        if track.interpolated:
            line = sent[np.argsort(track.sent_s[sent], kind="stable")]
            row.plot(track.sent_s[line], values[line], "-", color=colour, linewidth=1, alpha=0.6, zorder=1, label="between")
        else:
            samples = np.column_stack([track.sent_s[track.taken[has]], values[track.taken[has]]])
            _link(row, samples, np.column_stack([steps_s[has], at_steps]), colour)
        row.plot(
            steps_s[has], at_steps, "o", color=colour, markerfacecolor="white", markersize=_ring(has), zorder=3, label="steps"
        )
        row.plot(track.sent_s[sent], values[sent], "o", color=colour, markersize=_ring(sent) / 2, zorder=4, label="samples")
        if element < len(track.elements) and len(sent):
            end = sent[np.argmax(track.sent_s[sent])]
            row.annotate(
                track.elements[element],
                (track.sent_s[end], values[end]),
                (7, 0),
                textcoords="offset points",
                color=colour,
                fontsize=9,
                va="center",
                annotation_clip=False,
            )
    row.margins(y=0.2)


def _events(row: Axes, track: Track, steps_s: np.ndarray, has: np.ndarray, sent: np.ndarray) -> None:
    """Draw samples above and steps below, where there is no number to draw them at."""
    above, below, colour = np.ones(len(sent)), np.zeros(len(has)), _COLOURS[0]
    samples = np.column_stack([track.sent_s[track.taken[has]], np.ones(len(has))])
    _link(row, samples, np.column_stack([steps_s[has], below]), colour)
    row.plot(track.sent_s[sent], above, "o", color=colour, markersize=_ring(sent) * 0.6, zorder=2, label="samples")
    row.plot(steps_s[has], below, "o", color=colour, markerfacecolor="white", markersize=_ring(has), zorder=3, label="steps")
    row.set_ylim(-0.55, 1.5 if track.picture is None else 3.6)
    row.set_yticks([0, 1], ["steps", "samples"])
    if track.picture is not None and len(sent):
        _thumbnails(row, track, track.picture, sent)


def _thumbnails(row: Axes, track: Track, picture: Callable[[int], np.ndarray], sent: np.ndarray) -> None:
    """Put as many images above their samples as there is room for side by side."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    left, right = row.get_xlim()
    height, width = picture(int(sent[0])).shape[:2]
    side_s = (right - left) * (_THUMB_POINTS * width / height + 8) / ((_WIDTH - 1) * 72)
    free_s = left + side_s / 2
    for number in sent:
        time_s = track.sent_s[number]
        if free_s <= time_s <= right - side_s / 2:
            image = np.squeeze(picture(int(number)))
            step = max(1, image.shape[0] // (4 * _THUMB_POINTS))  # sharp enough when printed
            image = image[::step, ::step]
            box = OffsetImage(image, zoom=_THUMB_POINTS / image.shape[0], cmap="gray")
            row.add_artist(
                AnnotationBbox(
                    box, (time_s, 1), xybox=(0, 7), boxcoords="offset points", box_alignment=(0.5, 0), frameon=False, pad=0
                )
            )
            free_s = time_s + side_s


def _link(row: Axes, samples: np.ndarray, steps: np.ndarray, colour: str) -> None:
    from matplotlib.collections import LineCollection

    if len(steps) <= MOST_LINKS:
        lines = np.stack([samples, steps], axis=1)
        row.add_collection(LineCollection(list(lines), colors=colour, linewidths=1.3, alpha=0.8, zorder=1))


def _ring(drawn: np.ndarray) -> float:
    """Return the size of a step's ring in points: where there are many, they must not hide each other."""
    return 6.5 if len(drawn) <= MOST_LINKS else 3.0


def _thinned(numbers: np.ndarray) -> np.ndarray:
    return numbers[:: max(1, -(-len(numbers) // MOST_POINTS))]


def _about(track: Track, inside: np.ndarray, drawn: np.ndarray) -> str:
    told = []
    if track.rule and len(inside) > 1 and (seconds := float(np.ptp(track.sent_s[inside]))) > 0:
        told.append(f"{(len(inside) - 1) / seconds:.3g}/s")
    if track.rule:
        told.append(track.rule)
    if track.sent is not None and track.sent.shape[1] > MOST_ELEMENTS:
        told.append(f"{MOST_ELEMENTS} of {track.sent.shape[1]} elements")
    if len(drawn) < len(inside):
        told.append(f"{len(drawn)} of {len(inside)} samples drawn")
    return ", ".join(told)

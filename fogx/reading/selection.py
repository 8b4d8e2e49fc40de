"""Turns whatever selects episodes into rows of roots: a frame, a mask, ids, views, or a callable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import EpisodeNotFoundError, SelectionError, did_you_mean, listing
from fogx.reading.roots import Chosen, Roots, positions_of
from fogx.reading.table import episode_frame, is_mask, mask_of, texts

_NEAR = 10_000
"""Among so many ids the nearest to a wrong one is looked for."""


def choose(roots: Roots, selection: Any = None) -> Chosen:
    """Return the selected episodes, in the selection's order, each once.

    Args:
        roots: The handle's roots.
        selection: `None` for all; a DataFrame with `episode_id` as column or index; a boolean mask over
            `get_episode_info()`; an id or view, or an iterable of them; or a callable that is given `get_episode_info()` and
            returns one of these. An empty selection is valid.

    Raises:
        EpisodeNotFoundError: Ids that the dataset does not hold, with how many.
        SelectionError: Something that selects no episodes, or a mask of the wrong length.
    """
    everything = roots.chosen()
    if callable(selection) and not isinstance(selection, pd.DataFrame):
        selection = selection(episode_frame(everything))
    if selection is None:
        return everything
    if is_mask(selection):
        by_id = isinstance(selection, pd.Series) and selection.index.name == "episode_id"
        labels = pd.Index(everything.column("episode_id").to_pylist()) if by_id else pd.RangeIndex(len(everything))
        return everything.at(np.flatnonzero(mask_of(selection, labels)))
    wanted = pc.unique(_ids(selection))
    ids = everything.column("episode_id")
    positions = positions_of(ids, wanted)
    absent = wanted.filter(pa.array(positions < 0)).to_pylist()
    if absent:
        raise EpisodeNotFoundError(
            f"{len(absent)} of {len(wanted)} selected episodes are not in this dataset: {listing(absent, most=3)}."
            f"{did_you_mean(absent[0], ids.slice(0, _NEAR).to_pylist())} It holds {len(ids)}; select from a fresh get_episode_info()."
        )
    return everything.at(positions)


def in_write_root(roots: Roots, chosen: Chosen, verb: str) -> list[str]:
    """Return the ids of episodes that a verb is about to change.

    Raises:
        ReadOnlyError: The handle was opened for reading, also where nothing is selected.
        SelectionError: Some lie in another root; names it.
    """
    roots.write.check_writable()
    counts = np.bincount(chosen.root, minlength=len(chosen.roots)).tolist()
    others = {root.path: count for root, count in zip(chosen.roots, counts, strict=True) if count and root is not roots.write}
    if others:
        raise SelectionError(
            f"{verb} changes the write root only ({roots.write.path}), but {sum(others.values())} of {len(chosen)} selected "
            f"episodes lie in {listing(sorted(others))}. Open that root with fox.Dataset(path=...) to change it."
        )
    return [str(i) for i in chosen.column("episode_id").to_pylist()]


def _ids(selection: Any) -> pa.Array:
    if isinstance(selection, pd.DataFrame):
        if "episode_id" in selection.columns:
            return texts(selection["episode_id"])
        if selection.index.name == "episode_id" or selection.empty:
            return texts(selection.index)
        raise SelectionError(
            f"the frame has no column or index 'episode_id' (columns: {listing(selection.columns)}); keep that column when selecting."
        )
    if isinstance(selection, str) or hasattr(selection, "episode_id"):
        selection = [selection]
    try:
        given = list(selection)
    except TypeError:
        given = [selection]
    if any(not getattr(item, "is_whole", True) for item in given):
        raise SelectionError(
            "a slice of an episode, or one aligned anew, was given where stored episodes are selected; give the whole view, and choose steps with "
            "get_step_data(...).filter(pl.col('step_index')...), or read the slice's own arrays."
        )
    items = [getattr(item, "episode_id", item) for item in given]
    wrong = [item for item in items if not isinstance(item, str)]
    if wrong:
        raise SelectionError(
            f"a {type(wrong[0]).__name__} selects no episodes; give a frame from get_episode_info(), a boolean mask over it, "
            "episode ids, or a function of the frame."
        )
    return pa.array(items, pa.string())

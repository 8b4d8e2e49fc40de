"""Turns whatever selects episodes into rows of roots: a frame, a mask, ids, views, or a callable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from fogx.errors import EpisodeNotFoundError, SelectionError, did_you_mean, listing
from fogx.reading.roots import Root, Roots
from fogx.reading.table import episode_frame, is_mask, mask_of

Chosen = list[tuple[Root, int]]


def choose(roots: Roots, selection: Any = None) -> Chosen:
    """Return (root, row) of each selected episode, in the selection's order, each once.

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
        selection = selection(episode_frame(roots, everything))
    if selection is None:
        return everything
    if is_mask(selection):
        by_id = isinstance(selection, pd.Series) and selection.index.name == "episode_id"
        labels = [root.rows["episode_id"][row].as_py() for root, row in everything] if by_id else range(len(everything))
        return [chosen for chosen, kept in zip(everything, mask_of(selection, pd.Index(labels)), strict=True) if kept]
    ids = list(dict.fromkeys(_ids(selection)))
    where = _positions(everything, roots)
    absent = [i for i in ids if i not in where]
    if absent:
        raise EpisodeNotFoundError(
            f"{len(absent)} of {len(ids)} selected episodes are not in this dataset: {listing(absent, most=3)}."
            f"{did_you_mean(absent[0], where)} It holds {len(where)}; select from a fresh get_episode_info()."
        )
    return [where[i] for i in ids]


def in_write_root(roots: Roots, chosen: Chosen, verb: str) -> list[str]:
    """Return the ids of episodes that a verb is about to change.

    Raises:
        SelectionError: Some lie in another root; names it.
    """
    others = [root.path for root, _ in chosen if root is not roots.write]
    if others:
        raise SelectionError(
            f"{verb} changes the write root only ({roots.write.path}), but {len(others)} of {len(chosen)} selected episodes lie in "
            f"{listing(sorted(set(others)))}. Open that root with fox.Dataset(path=...) to change it."
        )
    ids = roots.write.rows["episode_id"]
    return [ids[row].as_py() for _, row in chosen]


def _positions(everything: Chosen, roots: Roots) -> dict[str, tuple[Root, int]]:
    ids = {id(root): root.rows["episode_id"].to_pylist() for root in roots.all}
    return {ids[id(root)][row]: (root, row) for root, row in everything}


def _ids(selection: Any) -> Iterable[str]:
    if isinstance(selection, pd.DataFrame):
        if "episode_id" in selection.columns:
            return [str(i) for i in selection["episode_id"]]
        if selection.index.name == "episode_id" or selection.empty:
            return [str(i) for i in selection.index]
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
            "a slice of an episode was given where whole episodes are selected; give the whole view, and choose steps with "
            "get_step_data(...).filter(pl.col('step_index')...), or read the slice's own arrays."
        )
    items = [getattr(item, "episode_id", item) for item in given]
    wrong = [item for item in items if not isinstance(item, str)]
    if wrong:
        raise SelectionError(
            f"a {type(wrong[0]).__name__} selects no episodes; give a frame from get_episode_info(), a boolean mask over it, "
            "episode ids, or a function of the frame."
        )
    return items

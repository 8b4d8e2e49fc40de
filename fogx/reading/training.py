"""Turns a selection into what training reads: a plain index that leaves pandas, polars and Delta Lake behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fogx.errors import FeatureNotFoundError, did_you_mean, listing
from fogx.feature import Feature, Schema
from fogx.reading.episodes import locate
from fogx.reading.roots import Chosen
from fogx.training.index import Entry, TrainingIndex

logger = logging.getLogger("fogx")


def training_index(chosen: Chosen, names: str | Sequence[str] | None) -> TrainingIndex:
    """Return the index of episodes for training; see `Dataset.as_pytorch_dataset`.

    Args:
        chosen: The episodes, in order.
        names: Features that items carry; `None` takes those that all episodes share.
    """
    names = [names] if isinstance(names, str) else names
    located = locate(chosen, ("steps", "frames"))
    schemas = [member.schema for member in located]
    entries = [
        Entry(m.root.store, m.episode_id, schema, m.index.num_steps, m.index.steps, m.index.frames)
        for m, schema in zip(located, schemas, strict=True)
    ]
    unlike = list(dict.fromkeys(schemas))
    everything = list(dict.fromkeys(name for schema in unlike for name in schema))
    features = {name: _shared(name, unlike) for name in everything}
    if names is None:
        left_out = [name for name, feature in features.items() if feature is None]
        if left_out:
            logger.warning(
                "as_pytorch_dataset: left out %s: not in all of the %d schemas selected with one dtype and fixed shape. "
                "Name them in features= to have those that fit.",
                listing(left_out),
                len(unlike),
            )
        taken = {name: feature for name, feature in features.items() if feature is not None}
    else:
        taken = {name: _named(name, unlike, everything) for name in names}
    partial = {name for member in located for name in member.index.partial}
    absent = {name for name in taken for schema in unlike if name not in schema.features}
    return TrainingIndex(entries, taken, frozenset((partial | absent) & set(taken)))


def _kind(feature: Feature) -> tuple[object, ...]:
    return feature.dtype, feature.shape, feature.is_image, feature.in_frames


def _shared(name: str, schemas: Sequence[Schema]) -> Feature | None:
    found = [schema.features[name] for schema in schemas if name in schema.features]
    fits = len(found) == len(schemas) and len({_kind(f) for f in found}) == 1
    return found[0] if fits and found[0].shape is not None and not found[0].is_variable else None


def _named(name: str, schemas: Sequence[Schema], everything: Sequence[str]) -> Feature:
    found = [schema.features[name] for schema in schemas if name in schema.features]
    if not found:
        raise FeatureNotFoundError(
            f"no selected episode has {name!r}; features are: {listing(everything)}.{did_you_mean(name, everything)}"
        )
    if len({_kind(f) for f in found}) > 1:
        kinds = listing(dict.fromkeys(f.describe() for f in found))
        raise FeatureNotFoundError(f"{name!r} is not one thing in the selected episodes ({kinds}); select episodes where it is.")
    return found[0]

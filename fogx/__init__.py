"""fogx: collect, manage and train on robot data.

`import fogx as fox` loads no pandas, polars, pyarrow, torch or TensorFlow; names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogx.align.policy import Align as Align
    from fogx.align.policy import exact as exact
    from fogx.align.policy import hold as hold
    from fogx.align.policy import linear as linear
    from fogx.align.policy import nearest as nearest
    from fogx.align.policy import next as next
    from fogx.align.policy import slerp as slerp
    from fogx.dataset import Dataset as Dataset
    from fogx.errors import FogxError as FogxError
    from fogx.feature import Feature as Feature
    from fogx.jobs.check import check as check
    from fogx.jobs.repair import repair as repair
    from fogx.settings import config as config
    from fogx.training.cache import clear_cache as clear_cache
    from fogx.training.mixture import mix as mix
    from fogx.training.normalize import Normalizer as Normalizer
    from fogx.training.online import Online as Online
    from fogx.training.windows import seconds as seconds
    from fogx.training.windows import steps as steps

__version__ = "0.1.0"

_WHERE = {
    "Align": "fogx.align.policy",
    "Dataset": "fogx.dataset",
    "Feature": "fogx.feature",
    "FogxError": "fogx.errors",
    "Normalizer": "fogx.training.normalize",
    "Online": "fogx.training.online",
    "check": "fogx.jobs.check",
    "clear_cache": "fogx.training.cache",
    "config": "fogx.settings",
    "repair": "fogx.jobs.repair",
    "exact": "fogx.align.policy",
    "hold": "fogx.align.policy",
    "linear": "fogx.align.policy",
    "mix": "fogx.training.mixture",
    "nearest": "fogx.align.policy",
    "next": "fogx.align.policy",
    "seconds": "fogx.training.windows",
    "slerp": "fogx.align.policy",
    "steps": "fogx.training.windows",
}

__all__ = [
    "Align",
    "Dataset",
    "Feature",
    "FogxError",
    "Normalizer",
    "Online",
    "__version__",
    "check",
    "clear_cache",
    "config",
    "exact",
    "hold",
    "linear",
    "mix",
    "nearest",
    "next",
    "repair",
    "seconds",
    "slerp",
    "steps",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fogx' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Reads roots that may be hostile, in a process of its own: one JSON request a line, one JSON answer a line.

A request is `{"read": root}`, or `{"load": rlds_folder, "into": root}`. An answer lists what went wrong, and the peak of memory in MiB
over what there was before. Errors of fogx are as it should be; all others are findings. If this process dies, that is one too.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import polars as pl

import fogx as fox
from fogx.errors import FogxError


def peak_mb() -> int:
    """Return the most memory that this process has held since `forget_peak`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10


def forget_peak() -> int:
    """Begin to count anew, and return what is held now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_mb()


def read(root: str) -> list[dict[str, Any]]:
    """Read everything of a root through the public API, going on after each error."""
    found: list[dict[str, Any]] = []

    def attempt(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FogxError as error:
            found.append({"what": what, "type": type(error).__name__, "ours": True, "text": str(error)})
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust code is no Exception
            text = "".join(traceback.format_exception(error))
            found.append({"what": what, "type": type(error).__name__, "ours": False, "text": text[-3000:]})
        return None

    dataset = attempt("open", lambda: fox.Dataset(root, read_only=True))
    if dataset is None:
        return found
    for what in ("__repr__", "_repr_html_", "get_episode_info", "history", "segments"):
        attempt(what, getattr(dataset, what))
    attempt("at", lambda: len(dataset.at(1)))
    for view in attempt("episodes", lambda: dataset.episodes) or []:
        attempt("view", lambda view=view: (repr(view), view._repr_html_(), len(view), view.metadata, view.timestamps_ns))
        attempt("segments", lambda view=view: view.segments)
        for name in attempt("features", lambda view=view: view.features) or []:
            attempt("feature", lambda view=view, name=name: view[name])
            attempt("encoded", lambda view=view, name=name: view.encoded(name) if view.schema[name].in_frames else None)
        attempt("step", lambda view=view: view[0] if len(view) else None)
    for images in ("index", "encoded", "pixels"):
        attempt(f"steps {images}", lambda images=images: dataset.get_step_data(images=images).collect())
    attempt("scan", lambda: dataset.get_step_data().filter(pl.col("step_index") > 0).head(2).collect())
    for level in ("step", "episode"):
        items = attempt("torch", lambda level=level: dataset.as_pytorch_dataset(level=level))
        attempt("item", lambda items=items: items[0] if items is not None and len(items) else None)
    return found


def load(folder: str, root: str) -> list[dict[str, Any]]:
    """Import an RLDS folder, and read what came of it."""
    try:
        fox.Dataset(root).load_rtx_episodes(folder)
    except FogxError as error:
        return [{"what": "load", "type": type(error).__name__, "ours": True, "text": str(error)}]
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return [{"what": "load", "type": type(error).__name__, "ours": False, "text": text[-3000:]}]
    return read(root)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fox.config(progress=False, **json.loads(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        before = forget_peak()
        errors = read(request["read"]) if "read" in request else load(request["load"], request["into"])
        sys.stdout.write(json.dumps({"errors": errors, "peak_mb": peak_mb() - before}) + "\n")
        sys.stdout.flush()

"""Makes `format-1/`: a small root in storage format 1, and what must be read from it, for ever.

It was run once, by the fogx that introduced the format, and is kept to show what the root holds. Do not run it again to make a
test pass: a root that cannot be read any more is the error that `test_format_1.py` is there to find. From the repository's root:

    python tests/data/make_format_1.py

It refuses to run while `format-1/` exists.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
TARGET = HERE / "format-1"
BRIDGE = HERE / "rlds" / "bridge" / "1.0.0"

EDGES = {
    "float16": ["0x0001", "0xfc00", "0x7e01"],  # smallest, -inf, a NaN with a payload
    "float32": ["0x80000000", "0x7f7fffff", "0x7fc00123"],  # -0, largest, a NaN with a payload
    "float64": ["0x0000000000000001", "0x7ff0000000000000", "0x3ff0000000000001"],  # smallest, inf, 1 + epsilon
}


def fingerprint(value: Any) -> Any:
    """Return a value as JSON; arrays, numpy scalars, bytes and long texts as `#`, their dtype and shape, and their bits or a digest."""
    if isinstance(value, np.ma.MaskedArray):
        return [None if np.all(np.ma.getmaskarray(row)) else fingerprint(np.ma.getdata(row)) for row in value]
    if isinstance(value, str) and len(value) > 200:
        return f"#str {_digest(value.encode())}"
    if isinstance(value, bytes):
        return f"#bytes {_digest(value)}"
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        return fingerprint(value.item())
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        data = np.asarray(value, value.dtype.newbyteorder("<"), order="C").tobytes()
        return f"#{value.dtype.name}{list(value.shape)} {_digest(data)}"
    if isinstance(value, dict):
        return {key: fingerprint(v) for key, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [fingerprint(v) for v in value]
    return value


def _digest(data: bytes) -> str:
    return data.hex() if len(data) <= 64 else f"sha256 {hashlib.sha256(data).hexdigest()} of {len(data)}"


def image(height: int, kind: str) -> bytes:
    """Return an encoded picture, 56 pixels wide."""
    rows, columns = np.mgrid[0:height, 0:56]
    pixels = np.stack([rows * 5, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def every_kind(step: int) -> dict[str, Any]:
    """Return the values of one of three steps, with every dtype and shape that a step can have."""
    values: dict[str, Any] = {}
    for bits in (8, 16, 32, 64):
        signed, unsigned = np.iinfo(f"int{bits}"), np.iinfo(f"uint{bits}")
        values[f"scalar/int{bits}"] = np.array([signed.min, -1, signed.max], f"int{bits}")[step]
        values[f"scalar/uint{bits}"] = np.array([0, 1, unsigned.max], f"uint{bits}")[step]
    for name, bits in EDGES.items():
        values[f"scalar/{name}"] = np.array([int(b, 16) for b in bits], f"uint{name[5:]}").view(name)[step]
    values["scalar/bool"] = np.bool_(step == 1)
    values["python/int"], values["python/float"], values["python/bool"] = step - 1, step / 3, step == 0
    values["text"] = ["", "plain", "Grüße, 机器人 🤖"][step]
    values["bytes"] = [b"", b"\x00\x01", bytes(range(256))][step]
    values["texts"] = [["a", "b"], ["", "é"], ["long " * 20, "c"]][step]
    values["array/bool"] = np.arange(6).reshape(2, 3) % 2 == step % 2
    values["array/uint64"] = np.arange(4, dtype=np.uint64).reshape(2, 1, 2) + np.uint64(2**63 + step)
    values["array/float16"] = (np.arange(3) / 7 + step).astype(np.float16)
    values["array/no_elements"] = np.zeros((0, 3), np.int16)
    values["state"] = np.linspace(-1, 1, 7, dtype=np.float32) * (step + 1)
    values["points"] = np.arange(2 * (step * 2), dtype=np.float32).reshape(-1, 2)
    values["words"] = [["one"], ["two", "words"], ["and", "three", "words"]][step]
    values["large/float32"] = np.arange(4097, dtype=np.float32) // 16 + step
    values["large/text"] = f"{step} all work and no play " * 1000
    values["depth"] = np.tile(np.arange(40, dtype=np.uint16) * 1000, (32, 1)) + np.uint16(step)
    values["camera"] = image(40 + step, "PNG")
    values["photo"] = image(40, "JPEG")
    if step == 1:
        values["sometimes"] = np.array([1.5, 2.5])
    return values


def main() -> None:
    """Write the root and `expected.json`."""
    os.environ["USER"] = "fogx"
    import fogx as fox
    from fogx.formats.rtx.loader import RtxLoader
    from fogx.storage.tables.index import read_index

    if TARGET.exists():
        raise SystemExit(f"{TARGET} exists. It is not to be made again once it is published.")
    fox.config(progress=False)
    folder = Path(tempfile.mkdtemp())
    dataset = fox.Dataset(folder / "format-1", name="format-1")
    episodes: dict[str, Any] = {}

    (folder / "image1.jpg").write_bytes(image(48, "JPEG"))
    with dataset.new_episode({"collector": "User 1"}) as episode:
        episode.add(feature="arm_view", value=folder / "image1.jpg")
    one = episode.episode_id
    episodes[one] = {
        "row": {"dataset": "format-1", "collector": "User 1"},
        "encoded": {"arm_view": [image(48, "JPEG")]},
    }

    facts = {"collector": "User 1", "score": 3, "weight": 1.5, "checked": False, "remark": "Grüße", "blob": b"\x00\xff"}
    nested = {
        "calibration": np.eye(3) / 3,
        "camera_setup": {"focal": 1.5, "size": [640, 480], "mask": np.array([True, False]), "serial": None},
        "operators": ["Ada", "Grace"],
    }
    declared = {
        "state": fox.Feature(
            "float32",
            (7,),
            names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
            unit="m",
            space="eef_pose",
            frame="base",
            rotation="euler_xyz",
            gripper="1=open",
            doc="Pose of the tool.",
        ),
        "points": fox.Feature("float32", (None, 2)),
        "words": fox.Feature("str", (None,)),
        "large/text": fox.Feature("str"),
        "camera": fox.Feature(shape=(None, 56, 3)),
    }
    episode = dataset.new_episode({**facts, **nested, "small": np.float32(0.1)}, task="show everything", features=declared)
    for step in range(3):
        episode.add_step(every_kind(step))
    episode.mark(success=True, control_hz=10, split="train", dataset="everything")
    all_kinds = episode.close()
    steps = [every_kind(step) for step in range(3)]
    in_frames = ("photo", "camera")
    taken = {"python/int": np.int64, "python/float": np.float64, "python/bool": np.bool_}
    values = {name: [taken.get(name, lambda v: v)(s[name]) if name in s else None for s in steps] for name in steps[0]}
    own = {"dataset": "everything", "split": "train", "control_hz": 10.0, "success": True}
    episodes[all_kinds] = {
        "row": {**own, **facts, "small": float(np.float32(0.1)), "task": "show everything"},
        "nested": nested,
        "values": {n: v for n, v in values.items() if n not in in_frames} | {"sometimes": [None, steps[1]["sometimes"], None]},
        "encoded": {name: values[name] for name in in_frames},
    }
    versions = {dataset.version: [one, all_kinds]}

    (imported,) = dataset.load_rtx_episodes(BRIDGE, additional_metadata={"collector": "User 2"})
    loader = RtxLoader()
    ((source,),) = [list(loader.read(task, lambda key: True)) for task in loader.plan(str(BRIDGE), split="all", data_dir=None)]
    columns = {name: list(column.values) for name, column in source.columns.items()}
    episodes[imported] = {
        "row": {"dataset": "bridge", "split": "train", "collector": "User 2", **source.metadata},
        "values": {n: [_scalar(x, source.schema[n].dtype) for x in v] for n, v in columns.items() if n != "observation/image"},
        "encoded": {"observation/image": columns["observation/image"]},
        "times": None,
    }
    versions[dataset.version] = [one, all_kinds, imported]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        no_steps = dataset.new_episode({"score": "high", "collector": "User 3"}).close()  # text beside numbers goes to _extra
    episodes[no_steps] = {"row": {"dataset": "format-1", "score": "high", "collector": "User 3"}}
    deleted = dataset.new_episode({"score": 0.5}).close()  # an int column widens
    versions[dataset.version] = [one, all_kinds, imported, no_steps, deleted]
    dataset.tag([all_kinds], reviewed=True)
    dataset.delete([deleted])
    versions[dataset.version] = [one, all_kinds, imported, no_steps]
    episodes[all_kinds]["row"] |= {"reviewed": True, "score": 3.0}

    views = {view.episode_id: view for view in dataset.episodes}
    rows = {row["episode_id"]: row for row in dataset._roots.write.rows.to_pylist()}
    episodes = fingerprint(episodes)
    for episode_id, about in episodes.items():
        row, view = rows[episode_id], views[episode_id]
        times = None if view.timestamps_ns is None or "times" in about else view.timestamps_ns.tolist()
        index = read_index(dataset._roots.write.store, row["index_file"], [row["index_row"]])[0]
        about |= {"times": times, "schema": view.schema.json, "schema_id": row["schema_id"]}
        about |= {"source_key": row["source_key"], "checksum": index.checksum.hex(), "partial": list(index.partial)}
    expected = {
        "name": "format-1",
        "episodes": episodes,
        "versions": {str(version): ids for version, ids in versions.items()},
        "history": [
            ["delete", 1], ["tag", 1], ["add columns", 0], ["record", 1], ["widen columns", 0], ["record", 1], ["load rtx", 1],
            ["add columns", 0], ["record", 1], ["add columns", 0], ["record", 1], ["add columns", 0], ["create", None],
        ],
        "state": {
            "count": [3] * 7,
            "min": np.min([s["state"] for s in steps], axis=0).tolist(),
            "max": np.max([s["state"] for s in steps], axis=0).tolist(),
            "mean": np.mean([s["state"].astype(float) for s in steps], axis=0).tolist(),
            "median": np.median([s["state"] for s in steps], axis=0).tolist(),
        },
    }  # fmt: skip
    (folder / "format-1" / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    shutil.copytree(folder / "format-1", TARGET)
    shutil.rmtree(folder)


def _scalar(value: Any, dtype: str | None) -> Any:
    return value if isinstance(value, (str, bytes, np.ndarray)) else np.dtype(dtype).type(value)


if __name__ == "__main__":
    main()

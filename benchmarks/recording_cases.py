"""The cases of recording.py, each in a process of its own: `python recording_cases.py CASE FRAMES OUT STEPS` prints a line of JSON.

Imports fogx in fogx's own cases only: LeRobot's run in another Python.
"""

import gc
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

JOINTS = 7
FPS = 30
TASK = "put the bottle upright"
JPEG_QUALITY = 95  # as fogx, with colours not subsampled


class Recorder(Protocol):
    """What is measured: takes whole steps, and is closed."""

    def add(self, images: list[np.ndarray], joints: np.ndarray) -> None: ...
    def close(self) -> int:
        """Save, and return how many steps there are."""


class Fogx:
    """fogx, in its defaults but for the codec."""

    def __init__(self, out: Path, shape: tuple[int, ...], cameras: int, codec: str) -> None:
        import fogx as fox

        features = {f"observation/cam{number}": fox.Feature("uint8", shape, camera=codec) for number in range(cameras)}
        self._dataset = fox.Dataset(out)
        self._episode = self._dataset.new_episode(task=TASK, features=features)

    def add(self, images: list[np.ndarray], joints: np.ndarray) -> None:
        cameras = {f"observation/cam{number}": image for number, image in enumerate(images)}
        self._episode.add_step({**cameras, "observation/state": joints, "action": joints})

    def close(self) -> int:
        return self._dataset.read_by(self._episode.close())[0].num_steps


class LeRobot:
    """LeRobotDataset as `lerobot-record` sets it up: four threads a camera write PNG, and video is encoded from those at the end."""

    def __init__(self, out: Path, shape: tuple[int, ...], cameras: int, kind: str) -> None:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]

        self._names = [f"observation.images.cam{number}" for number in range(cameras)]
        features: dict[str, Any] = {
            name: {"dtype": kind, "shape": shape, "names": ["height", "width", "channels"]} for name in self._names
        }
        for name in ("observation.state", "action"):
            features[name] = {"dtype": "float32", "shape": (JOINTS,), "names": [f"joint{i}" for i in range(JOINTS)]}
        self._dataset = LeRobotDataset.create(
            "bench/recording", FPS, features, root=out, use_videos=kind == "video", image_writer_threads=4 * cameras
        )

    def add(self, images: list[np.ndarray], joints: np.ndarray) -> None:
        cameras = dict(zip(self._names, images, strict=True))
        self._dataset.add_frame({**cameras, "observation.state": joints, "action": joints, "task": TASK})

    def close(self) -> int:
        self._dataset.save_episode()
        self._dataset.finalize()
        return int(self._dataset.meta.total_frames)


class Hdf5:
    """h5py, a data set a feature and a chunk a frame: raw, or the bytes of JPEG. Synced to disk at the end, as fogx is."""

    def __init__(self, out: Path, shape: tuple[int, ...], cameras: int, kind: str) -> None:
        import h5py  # type: ignore[import-untyped]

        out.mkdir(parents=True)
        self._path, self._steps, self._jpeg = out / "episode.h5", 0, kind == "jpeg"
        self._file = h5py.File(self._path, "w")
        frame = {"shape": (0,), "dtype": h5py.vlen_dtype(np.uint8), "chunks": (64,)}
        if not self._jpeg:
            frame = {"shape": (0, *shape), "dtype": np.uint8, "chunks": (1, *shape)}
        self._cameras = [
            self._file.create_dataset(f"observation/cam{n}", maxshape=(None, *frame["shape"][1:]), **frame)
            for n in range(cameras)
        ]
        self._numbers = [
            self._file.create_dataset(name, (0, JOINTS), np.float32, maxshape=(None, JOINTS), chunks=(256, JOINTS))
            for name in ("observation/state", "action")
        ]

    def add(self, images: list[np.ndarray], joints: np.ndarray) -> None:
        from simplejpeg import encode_jpeg  # type: ignore[import-untyped]

        frames = [
            np.frombuffer(encode_jpeg(image, JPEG_QUALITY, colorsubsampling="444", fastdct=False), np.uint8)
            if self._jpeg
            else image
            for image in images
        ]
        for data, value in zip([*self._cameras, *self._numbers], [*frames, joints, joints], strict=True):
            data.resize(self._steps + 1, axis=0)
            data[self._steps] = value
        self._steps += 1

    def close(self) -> int:
        steps = len(self._numbers[0])
        self._file.close()
        for path in (self._path, self._path.parent):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return steps


CASES: dict[str, tuple[Callable[..., Recorder], str]] = {
    "fogx_jpeg": (Fogx, "jpeg"),
    "fogx_png": (Fogx, "png"),
    "lerobot_video": (LeRobot, "video"),
    "lerobot_image": (LeRobot, "image"),
    "hdf5_raw": (Hdf5, "raw"),
    "hdf5_jpeg": (Hdf5, "jpeg"),
}


def recorded(case: str, frames: np.ndarray, out: Path, steps: int) -> dict[str, Any]:
    """Record `steps` steps as fast as they are taken, of `frames` `(cameras, N, H, W, 3)`."""
    make, kind = CASES[case]
    recorder = make(out, frames.shape[2:], len(frames), kind)
    joints = np.random.default_rng(0).normal(size=(steps, JOINTS)).cumsum(0).astype(np.float32)
    waits = np.zeros(steps)
    began, cpu = time.perf_counter(), _cpu()
    for step, number in zip(range(steps), _to_and_fro(frames.shape[1]), strict=False):
        images = list(frames[:, number])
        called = time.perf_counter()
        recorder.add(images, joints[step])
        waits[step] = time.perf_counter() - called
    closing = time.perf_counter()
    kept = recorder.close()
    ended = time.perf_counter()
    return {
        "wall": ended - began, "cpu": _cpu() - cpu, "close": ended - closing, "steps": kept, "bytes": _size(out),
        **_quantiles(waits),
    }  # fmt: skip


def real_time(frames: np.ndarray, out: Path, seconds: int) -> dict[str, Any]:
    """Record each camera at 30 Hz and joints at 500 Hz, each from a thread of its own, at their times.

    A camera that comes more than a period late has lost a frame: its driver keeps only the newest. Joints queue up in theirs.
    """
    import fogx as fox

    dataset = fox.Dataset(out)
    features = {f"observation/cam{n}": fox.Feature("uint8", frames.shape[2:], camera="jpeg") for n in range(len(frames))}
    episode = dataset.new_episode(task=TASK, features=features, align=fox.Align(reference="observation/cam0"))
    # As README says it of programs that record: the collector's first look at all modules stops all threads for 40 ms.
    gc.collect()
    gc.freeze()
    start = time.perf_counter() + 0.2
    zero_ns = time.time_ns() + 200_000_000
    dropped, late, waits = [0] * len(frames), [0] * (len(frames) + 1), [[] for _ in range(len(frames) + 1)]

    def sensor(number: int, name: str, hz: int, values: Iterator[np.ndarray], drops: bool) -> None:
        for tick in range(seconds * hz):
            due = start + tick / hz
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            value, called = next(values), time.perf_counter()
            if drops and called > due + 1 / hz:
                dropped[number] += 1
                continue
            late[number] += called > due + 0.010
            episode.add(name, value, zero_ns + round(tick * 1e9 / hz))
            waits[number].append(time.perf_counter() - called)

    joints = np.random.default_rng(0).normal(size=(seconds * 500, JOINTS)).cumsum(0).astype(np.float32)
    threads = [
        threading.Thread(
            target=sensor, args=(n, f"observation/cam{n}", FPS, (frames[n, i] for i in _to_and_fro(frames.shape[1])), True)
        )
        for n in range(len(frames))
    ]
    threads.append(threading.Thread(target=sensor, args=(len(frames), "observation/state", 500, iter(joints), False)))
    began, cpu = time.perf_counter(), _cpu()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    closing = time.perf_counter()
    recording_cpu = _cpu() - cpu
    episode.close()
    ended = time.perf_counter()
    images = np.concatenate(waits[:-1])
    return {
        "wall": ended - began, "cpu": _cpu() - cpu, "recording cpu": recording_cpu, "close": ended - closing, "bytes": _size(out),
        "frames": len(images), "dropped": sum(dropped), "late frames": sum(late[:-1]), "joints": len(waits[-1]), "late joints": late[-1],
        **{f"frame {key}": value for key, value in _quantiles(images).items()},
        **{f"joint {key}": value for key, value in _quantiles(np.array(waits[-1])).items()},
    }  # fmt: skip


def _to_and_fro(count: int) -> Iterator[int]:
    """Yield frame numbers without end that never jump, as a camera's pictures do not."""
    while True:
        yield from range(count)
        yield from range(count - 2, 0, -1)


def _quantiles(waits: np.ndarray) -> dict[str, float]:
    return {f"p{q}": float(np.quantile(waits, q / 100)) for q in (50, 99, 99.9)}


def _size(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def _peak() -> float:
    """Return the largest resident memory in MiB: this process's and that of its largest child."""
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    if sys.platform == "linux":  # there ru_maxrss starts with what the parent had
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        own = int(line.split()[1]) / 1024
    return own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / scale


def main() -> None:
    case, frames, out, amount = sys.argv[1], np.load(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    # A program pays for its imports and its first file once, so a few steps go before those that are measured.
    if case == "real_time" or case.startswith("fogx"):
        import fogx as fox

        fox.config(progress=False)
    recorded("fogx_jpeg" if case == "real_time" else case, frames, out.with_name("warm"), 4)
    base = _peak()
    told = real_time(frames, out, amount) if case == "real_time" else recorded(case, frames, out, amount)
    print(json.dumps({"base": base, "peak": _peak(), **told}))


if __name__ == "__main__":
    main()

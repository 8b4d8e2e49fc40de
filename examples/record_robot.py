"""Record teleoperation from sensors that each have a rate, and a thread, of their own; then show what was kept.

    python examples/record_robot.py FOLDER --takes 3 --seconds 4

The robot is simulated. Ctrl-C ends a take early: what was recorded until then is kept, and it is said. Needs fogx alone. Were the
process killed, `dataset.recover()` would save what it had added up to a second before, images as far as they were encoded.
"""

import argparse
import gc
import threading
import time
from collections.abc import Callable

import numpy as np

import fogx as fox

Sensor = Callable[[float], object]
"""What is measured, at a number of seconds since the take began."""


def camera(place: int) -> Sensor:
    """Return a camera that sees a ball swing in front of a wall, (120, 160, 3) uint8."""
    wall = np.random.default_rng(place).integers(150, 190, (120, 160, 3), np.uint8)
    rows, columns = np.mgrid[:120, :160]

    def see(seconds: float) -> np.ndarray:
        image = wall.copy()
        image[(rows - 70) ** 2 + (columns - 80 - 50 * np.sin(seconds * 2 + place)) ** 2 < 144] = (200, 60, 40)
        return image

    return see


def joints(seconds: float) -> np.ndarray:
    return np.sin(seconds * np.arange(1, 8) / 4).astype(np.float32)


def command(seconds: float) -> np.ndarray:
    return np.cos(seconds * np.arange(1, 8) / 4).astype(np.float32)


SENSORS: dict[str, tuple[float, Sensor]] = {
    "observation/front": (30, camera(0)),
    "observation/wrist": (28, camera(1)),
    "observation/joints": (250, joints),
    "action": (20, command),
}


def listen(episode, name: str, rate_hz: float, measure: Sensor, stop: threading.Event, failed: list[Exception]) -> None:
    """Add what one sensor measures, each value with the time at which it was taken, until told to stop."""
    began = time.monotonic()
    due = began
    try:
        while not stop.wait(max(0.0, due - time.monotonic())):
            stamp_ns = time.time_ns()
            episode.add(name, measure(time.monotonic() - began), timestamp=stamp_ns)
            due += 1 / rate_hz
    except Exception as error:  # one sensor's failure ends the take; what the others sent is kept
        failed.append(error)
        stop.set()


def gather(threads: list[threading.Thread]) -> None:
    """Wait until all that were started have stopped, as they were told to: that is soon, also for who presses Ctrl-C again."""
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                print("  the sensors are stopping, then the take is saved", flush=True)


def take(dataset: fox.Dataset, seconds: float) -> tuple[str, bool]:
    """Record one take; return its id and whether it went on to its end."""
    # A step an image of the front camera; a joint position that is older than 0.2 s counts as none.
    align = fox.Align(reference="observation/front", features={"observation/joints": fox.hold(max_age_s=0.2)})
    stop, failed, whole = threading.Event(), [], False
    with dataset.new_episode({"operator": "Ada"}, task="push the ball", align=align) as episode:
        threads = [
            threading.Thread(target=listen, args=(episode, name, rate_hz, measure, stop, failed))
            for name, (rate_hz, measure) in SENSORS.items()
        ]
        try:
            for thread in threads:
                thread.start()
            ends = time.monotonic() + seconds
            while not stop.wait(min(1.0, max(0.0, ends - time.monotonic()))) and time.monotonic() < ends:
                print(f"  {episode!r}", flush=True)
            whole = not failed
        except KeyboardInterrupt:
            pass  # whoever pressed it wants the take to end, not to be lost
        finally:
            stop.set()
            gather(threads)
        if failed:
            raise failed[0]  # the episode is saved all the same, with the metadata `interrupted`
        # Somebody who watches would say whether it went well.
        episode.mark(success=whole, stopped_early=not whole)
    return episode.episode_id, whole


def show(dataset: fox.Dataset) -> None:
    """Print of each take what the sensors sent, and of the last its first steps."""
    for view in dataset.episodes:
        print(f"take {view.episode_id}: success={view.metadata['success']}, {view.num_steps} steps")
        for name in view.features:
            stamps_ns, _ = view.samples(name)
            seconds = np.ptp(stamps_ns) / 1e9
            rate = f"{(len(stamps_ns) - 1) / seconds:.1f}/s" if seconds else "once"
            print(f"  {name}: {len(stamps_ns)} samples, {rate}")
    print(dataset.get_step_data(dataset.episodes[-1:]).drop("episode_id").head(3).collect())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="robot_dataset")
    parser.add_argument("--takes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a take")
    given = parser.parse_args()
    dataset = fox.Dataset(given.folder)
    # The collector's first look at all that is loaded stops all threads for some 40 ms: it is done now, and not again.
    gc.collect()
    gc.freeze()
    for number in range(given.takes):
        print(f"take {number + 1} of {given.takes}: {given.seconds:g} s, Ctrl-C ends it", flush=True)
        episode_id, whole = take(dataset, given.seconds)
        print(f"  kept as {episode_id}" + ("" if whole else ", until it was stopped"), flush=True)
        if not whole:
            break
    else:
        # Say that the last one went wrong: it goes, as if it had not been recorded.
        if given.takes > 1:
            print(f"discarded {dataset.discard_last()}")
    show(dataset)
    print(f"dataset: {dataset.path}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # again, while a take was saved
        raise SystemExit("stopped; what was recorded and is not saved comes back with dataset.recover()") from None

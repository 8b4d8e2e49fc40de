"""From streams to steps: a pure function, the same at record time, at read time and in `realign`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fogx.align.policy import INTERPOLATING, Align, Policy
from fogx.errors import FeatureError, did_you_mean, listing

NEVER = np.iinfo(np.int64).min
"""The age where a feature has no sample at all that a step could take."""

JUMP_NS = 1_000_000_000
"""A stamp so far before the newest one of its feature is no late sample: the clock was set back."""


@dataclass(frozen=True)
class Stream:
    """The samples of one feature, in the order in which they came.

    Args:
        stamps_ns: `(N,)` int64, when each was taken.
        values: `(N, *shape)` numbers; `None` for images, text and whatever else has no value between two.
        arrival: `(N,)` int64, rising: which of all the episode's samples each was. `None` where only the stamps are known; then
            a clock that jumps back goes unseen.
        is_camera: Whether it holds images.
    """

    stamps_ns: np.ndarray
    values: np.ndarray | None = None
    arrival: np.ndarray | None = None
    is_camera: bool = False


@dataclass(frozen=True)
class Taken:
    """What one feature has at the steps.

    Args:
        sample: `(T,)` int64, which sample each step takes; −1 for none. Of interpolated features, the one at or before the step.
        age_ns: `(T,)` int64, step − time of the sample in question: below 0 where it lies ahead; known also where a limit cut it
            off; `NEVER` where there is none.
        values: `(T, *shape)` where values were interpolated, zeros where there is none; else `None`.
    """

    sample: np.ndarray
    age_ns: np.ndarray
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Steps:
    """Aligned streams.

    Args:
        times_ns: `(T,)` int64; rising, but where a clock was set back.
        features: What each feature has at the steps.
        clock: The feature whose samples are the steps, or `None`.
        cuts: Steps before which a clock was set back.
    """

    times_ns: np.ndarray
    features: Mapping[str, Taken]
    clock: str | None
    cuts: tuple[int, ...] = ()


def align(streams: Mapping[str, Stream], policy: Align | None = None) -> Steps:
    """Return the steps of streams. O(n log n) for the sort of late samples, else O(n); nothing depends on the order of features.

    Samples of one feature with the same stamp: the one that came last counts. Late samples are put in order, but a stamp more
    than 1 s before the newest of its feature tells of a clock that was set back: what came before and after it is aligned apart.

    Args:
        streams: By feature name; those without samples have nothing at any step.
        policy: `None` for the defaults; see `Align`.

    Raises:
        FeatureError: A policy for a feature that there is not, or one that the feature's values do not allow.
    """
    policy = policy or Align()
    _check(streams, policy)
    clock = clock_of(streams, policy)
    late_ns = {name: round(late * 1e9) for name, late in policy.latency_s.items()}
    times = {name: stream.stamps_ns.astype(np.int64) - late_ns.get(name, 0) for name, stream in streams.items()}
    starts = _cuts(streams, times)
    parts = [_part(streams, times, policy, clock, first, stop) for first, stop in zip(starts, [*starts[1:], None], strict=True)]
    cuts = np.cumsum([len(steps) for steps, _ in parts])[:-1]
    joined = {
        name: Taken(
            np.concatenate([taken[name].sample for _, taken in parts]),
            np.concatenate([taken[name].age_ns for _, taken in parts]),
            None if parts[0][1][name].values is None else np.concatenate([taken[name].values for _, taken in parts]),
        )
        for name in streams
    }
    return Steps(np.concatenate([steps for steps, _ in parts]), joined, clock, tuple(cuts.tolist()))


def is_action(name: str) -> bool:
    """Return whether a feature is what the robot was told to do."""
    return name == "action" or name.startswith("action/")


def clock_of(streams: Mapping[str, Stream], policy: Align) -> str | None:
    """Return the feature whose samples are the steps, or `None` where they come from elsewhere."""
    if policy.rate_hz is not None or policy.union:
        return None
    if policy.reference is not None:
        return policy.reference
    names = [name for name in streams if len(streams[name].stamps_ns)]
    names = [name for name in names if is_action(name)] or names
    return min(names, key=lambda name: (name != "action", -len(streams[name].stamps_ns), name), default=None)


def policy_of(name: str, clock: str | None, policy: Align) -> Policy:
    """Return the policy of one feature."""
    if name in policy.features:
        return policy.features[name]
    if is_action(name) and name != clock:
        return Policy("next")
    return policy.default or Policy("hold")


def fast_clock(streams: Mapping[str, Stream], steps: Steps) -> str | None:
    """Return a warning where the clock runs at more than twice the rate of a camera: most images then stand in several steps."""
    counts = {name: len(s.stamps_ns) for name, s in streams.items() if s.is_camera and len(s.stamps_ns)}
    slow = {name: count for name, count in counts.items() if len(steps.times_ns) > 2 * count}
    if not slow or len(steps.times_ns) < 10:
        return None
    name = min(slow, key=lambda n: (slow[n], n))
    by = f"the samples of {steps.clock!r}" if steps.clock else "the policy"
    return (
        f"{len(steps.times_ns)} steps, by {by}, but {slow[name]} images of {name!r}: each stands in {len(steps.times_ns) / slow[name]:.1f} "
        f"steps. For a step an image give align=fox.Align(reference={name!r})."
    )


def _check(streams: Mapping[str, Stream], policy: Align) -> None:
    named = [*policy.features, *policy.latency_s, *([policy.reference] if policy.reference else [])]
    for name in named:
        if name not in streams:
            raise FeatureError(
                f"align: there is no feature {name!r}; there are {listing(sorted(streams))}.{did_you_mean(name, streams)}"
            )
    for name, stream in streams.items():
        kind = policy.features.get(name, policy.default or Policy("hold")).kind
        chosen = name in policy.features
        if kind in INTERPOLATING and chosen and (stream.values is None or stream.values.dtype.kind != "f"):
            what = "images or text" if stream.values is None else f"{stream.values.dtype}"
            raise FeatureError(f"align: feature {name!r} holds {what}, {kind} is for floats; give fox.hold() or fox.nearest().")
        if kind == "slerp" and chosen and stream.values is not None and stream.values.shape[-1:] != (4,):
            raise FeatureError(f"align: feature {name!r} has shape {stream.values.shape[1:]}, slerp is for quaternions (…, 4).")


def _cuts(streams: Mapping[str, Stream], times: Mapping[str, np.ndarray]) -> list[int]:
    """Return the arrival numbers from which on the streams are aligned apart, 0 first."""
    starts, known = [0], [name for name, stream in streams.items() if stream.arrival is not None]
    while True:
        found = []
        for name in known:
            arrival = streams[name].arrival
            assert arrival is not None
            begun = int(np.searchsorted(arrival, starts[-1]))
            here = times[name][begun:]
            back = np.flatnonzero(here < np.maximum.accumulate(here) - JUMP_NS) if len(here) else here
            if len(back):
                found.append(int(arrival[begun + back[0]]))
        if not found:
            return starts
        starts.append(min(found))


def _part(
    streams: Mapping[str, Stream], times: Mapping[str, np.ndarray], policy: Align, clock: str | None, first: int, stop: int | None
) -> tuple[np.ndarray, dict[str, Taken]]:
    """Align the samples that came from one arrival number up to another."""
    ordered: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, stream in streams.items():
        begin, end = 0, len(times[name])
        if stream.arrival is not None:
            begin = int(np.searchsorted(stream.arrival, first))
            end = end if stop is None else int(np.searchsorted(stream.arrival, stop))
        here = times[name][begin:end]
        order = np.argsort(here, kind="stable") if np.any(here[1:] < here[:-1]) else np.arange(len(here))
        here = here[order]
        last = np.append(here[1:] != here[:-1], True) if len(here) else np.zeros(0, bool)  # of one stamp the last that came
        ordered[name] = here[last], order[last] + begin
    steps = _steps(ordered, policy, clock)
    return steps, {
        name: _taken(steps, *ordered[name], streams[name].values, _fitting(name, streams[name], clock, policy))
        for name in streams
    }


def _fitting(name: str, stream: Stream, clock: str | None, policy: Align) -> Policy:
    """Return the policy of a feature; a default that interpolates holds what cannot be interpolated."""
    chosen = policy_of(name, clock, policy)
    floats = stream.values is not None and stream.values.dtype.kind == "f"
    fits = floats and (chosen.kind == "linear" or stream.values.shape[-1:] == (4,))  # type: ignore[union-attr]
    return chosen if chosen.kind not in INTERPOLATING or fits else Policy("hold", chosen.within_s)


def _steps(ordered: Mapping[str, tuple[np.ndarray, np.ndarray]], policy: Align, clock: str | None) -> np.ndarray:
    if clock is not None:
        return ordered[clock][0]
    filled: Sequence[np.ndarray] = [times for times, _ in ordered.values() if len(times)]
    if not filled:
        return np.zeros(0, np.int64)
    if policy.rate_hz is None:
        every = np.sort(np.concatenate(filled))  # np.unique hashes, which takes eight times as long
        return np.asarray(every[np.append(True, every[1:] != every[:-1])])
    first, last = min(int(t[0]) for t in filled), max(int(t[-1]) for t in filled)
    # One more than the division says, since it rounds; what lies past the end is cut off.
    grid = np.rint(np.arange(int((last - first) * policy.rate_hz / 1e9) + 2) * 1e9 / policy.rate_hz).astype(np.int64)
    return np.asarray(first + grid[grid <= last - first])


def _taken(steps: np.ndarray, times: np.ndarray, numbers: np.ndarray, values: np.ndarray | None, policy: Policy) -> Taken:
    if not len(times):
        none = None if policy.kind not in INTERPOLATING else np.zeros((len(steps), *values.shape[1:]), values.dtype)  # type: ignore[union-attr]
        return Taken(np.full(len(steps), -1), np.full(len(steps), NEVER), none)
    before = np.searchsorted(times, steps, side="right") - 1
    after = before + 1 - ((before >= 0) & (times[before] == steps))
    if policy.kind in INTERPOLATING:
        assert values is not None
        return _between(steps, times, numbers, values, policy, before, after)
    if policy.kind in ("hold", "exact"):
        place = before
    elif policy.kind == "next":
        place = after
    else:
        low, high = np.maximum(before, 0), np.minimum(after, len(times) - 1)
        place = np.where(np.abs(times[high] - steps) < np.abs(steps - times[low]), high, low)
    there = (place >= 0) & (place < len(times))
    inside = np.clip(place, 0, len(times) - 1)
    age = np.where(there, steps - times[inside], NEVER)
    limit = 0 if policy.kind == "exact" else policy.within_ns
    if limit is not None:
        there &= np.abs(steps - times[inside]) <= limit
    return Taken(np.where(there, numbers[inside], -1), age)


def _between(
    steps: np.ndarray,
    times: np.ndarray,
    numbers: np.ndarray,
    values: np.ndarray,
    policy: Policy,
    before: np.ndarray,
    after: np.ndarray,
) -> Taken:
    low, high = np.clip(before, 0, len(times) - 1), np.clip(after, 0, len(times) - 1)
    there = (before >= 0) & (after < len(times))
    if policy.within_ns is not None:
        there &= times[high] - times[low] <= policy.within_ns
    age = np.where(before >= 0, steps - times[low], NEVER)
    gap = np.maximum(times[high] - times[low], 1)
    share = ((steps - times[low]) / gap).reshape(-1, *[1] * (values.ndim - 1))
    samples = values[numbers].astype(np.float64)
    if policy.kind == "slerp":
        samples = _continuous(samples)
        made = _slerp(samples[low], samples[high], share)
    else:
        made = samples[low]
        made += (samples[high] - made) * share  # nothing is added where a sample has the step's own time
    made[~there] = 0
    return Taken(np.where(there, numbers[low], -1), age, made.astype(values.dtype))


def _continuous(samples: np.ndarray) -> np.ndarray:
    """Return unit quaternions whose signs do not flip from one to the next."""
    norms = np.linalg.norm(samples, axis=-1, keepdims=True)
    samples = samples / np.where(norms == 0, 1, norms)
    flips = np.where((samples[1:] * samples[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    samples[1:] *= np.cumprod(flips, axis=0)
    return np.asarray(samples)


def _slerp(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Shoemake, Animating rotation with quaternion curves (1985), eq. for the great arc; chords where the arc is tiny."""
    cosine = np.clip((a * b).sum(-1, keepdims=True), -1, 1)
    angle = np.arccos(cosine)
    sine = np.where(angle < 1e-6, 1, np.sin(angle))
    left = np.where(angle < 1e-6, 1 - share, np.sin((1 - share) * angle) / sine)
    right = np.where(angle < 1e-6, share, np.sin(share * angle) / sine)
    made = left * a + right * b
    norms = np.linalg.norm(made, axis=-1, keepdims=True)
    return np.asarray(made / np.where(norms == 0, 1, norms))

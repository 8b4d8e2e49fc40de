"""From streams to steps: a pure function, the same at record time, at read time and in `realign`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fogx.align.clocks import set_back
from fogx.align.policy import INTERPOLATING, Align, Policy
from fogx.errors import AlignmentError, TooManyStepsError, did_you_mean, listing

NEVER = np.iinfo(np.int64).min
"""The age where a feature has no sample at all that a step could take."""

MANY_STEPS = 4_000_000
"""So many steps, more than an hour at 1000 Hz, are made of few samples only where a stamp is wrong."""

_STEPS_A_SAMPLE = 100

_STRAY_S = 3600
"""So far from all others a stamp is wrong, and not the rate."""

MANY_GAPS = 0.10
"""More missing values than this share are told."""

_PIECE = 4_096
"""Steps interpolated at once."""


@dataclass(frozen=True)
class Stream:
    """The samples of one feature, in the order in which they came.

    Args:
        stamps_ns: `(N,)` int64, when each was taken.
        values: `(N, *shape)` numbers; `None` for images, text and whatever else has no value between two.
        arrival: `(N,)` int64, rising: which of all the episode's samples each was. `None` where only the stamps are known; then
            a clock that is set back goes unseen.
        is_camera: Whether it holds images.
        received_ns: `(N,)` int64, when each came, by one clock that is never set; `None` where that is not known.
    """

    stamps_ns: np.ndarray
    values: np.ndarray | None = None
    arrival: np.ndarray | None = None
    is_camera: bool = False
    received_ns: np.ndarray | None = None


@dataclass(frozen=True)
class Taken:
    """What one feature has at the steps.

    Args:
        sample: `(T,)` int64, which sample each step takes; −1 for none. Of interpolated features, the one at or before the step.
        ages: Gives `age_ns`, for which few ask.
        values: `(T, *shape)` where values were interpolated, zeros where there is none; else `None`.
    """

    sample: np.ndarray
    ages: Callable[[], np.ndarray]
    values: np.ndarray | None = None

    @functools.cached_property
    def age_ns(self) -> np.ndarray:
        """`(T,)` int64, step − time of the sample in question: below 0 where it lies ahead; known also where a limit cut it off;
        `NEVER` where there is none."""
        return self.ages()


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
    """Return the steps of streams. O(n log n) for the sort of late samples; nothing depends on the order of features.

    Samples of one feature with the same stamp: the one that came last counts. Late samples are put in order; where a clock was
    set back (see `clocks.py`), what came before and after is aligned apart.

    Args:
        streams: By feature name; those without samples have nothing at any step.
        policy: `None` for the defaults; see `Align`.

    Raises:
        AlignmentError: A policy for a feature that there is not, or one that the feature's values do not allow.
        TooManyStepsError: `rate_hz` makes more than `MANY_STEPS` steps of few samples, because a stamp lies far from all others.
    """
    policy = policy or Align()
    _check(streams, policy)
    clock = clock_of(streams, policy)
    times = times_of(streams, policy)
    starts = _cuts(streams, times)
    parts = [_part(streams, times, policy, clock, first, stop) for first, stop in zip(starts, [*starts[1:], None], strict=True)]
    if len(parts) == 1:
        return Steps(*parts[0], clock)
    cuts = np.cumsum([len(steps) for steps, _ in parts])[:-1]
    joined = {name: _joined([taken[name] for _, taken in parts]) for name in streams}
    return Steps(np.concatenate([steps for steps, _ in parts]), joined, clock, tuple(cuts.tolist()))


def _joined(parts: Sequence[Taken]) -> Taken:
    values = None if parts[0].values is None else np.concatenate([part.values for part in parts])
    ages = [part.ages for part in parts]
    return Taken(np.concatenate([part.sample for part in parts]), lambda: np.concatenate([age() for age in ages]), values)


def times_of(streams: Mapping[str, Stream], policy: Align) -> dict[str, np.ndarray]:
    """Return the true times of samples, `(N,)` int64 by feature name: stamps less what `latency_s` says."""
    late_ns = {name: round(late * 1e9) for name, late in policy.latency_s.items()}
    return {name: stream.stamps_ns.astype(np.int64, copy=False) - late_ns.get(name, 0) for name, stream in streams.items()}


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


def many_gaps(streams: Mapping[str, Stream], steps: Steps, policy: Align) -> str | None:
    """Return a warning where more than a tenth of the values at the steps is missing, with the rates and what to do."""
    count = len(steps.times_ns)
    gaps = {name: int((taken.sample < 0).sum()) for name, taken in steps.features.items()}
    total, cells = sum(gaps.values()), count * len(gaps)
    if total <= cells * MANY_GAPS:
        return None
    worst = sorted((name for name in gaps if gaps[name]), key=lambda name: (-gaps[name], name))
    shown = [
        f"{name} at {gaps[name]} steps ({_rate(streams[name].stamps_ns)}, {policy_of(name, steps.clock, policy).kind})"
        for name in worst
    ]
    return (
        f"{total} of {cells} values ({total / cells:.0%}) are missing after alignment to {count} steps ({_rate(steps.times_ns)}): "
        f"{listing(shown, most=5)}. Take fewer steps (rate_hz= or reference= of a slower feature) or wider limits (max_age_s= and the "
        "like) in fox.Align; every sample is kept, so dataset.realign() can do it later."
    )


def _rate(stamps_ns: np.ndarray) -> str:
    span = int(stamps_ns.max() - stamps_ns.min()) / 1e9 if len(stamps_ns) else 0.0
    return f"{len(stamps_ns)} in {span:.1f} s" + (f", {(len(stamps_ns) - 1) / span:.1f}/s" if span else "")


def _check(streams: Mapping[str, Stream], policy: Align) -> None:
    wrong: dict[str, str] = {}
    for name in [*([policy.reference] if policy.reference else []), *policy.features, *policy.latency_s]:
        if name not in streams:
            wrong[name] = f"there is no feature {name!r}; there are {listing(sorted(streams))}.{did_you_mean(name, streams)}"
    for name, chosen in policy.features.items():
        if name in wrong or chosen.kind not in INTERPOLATING:
            continue
        values = streams[name].values
        if values is None or values.dtype.kind != "f":
            what = "images or text" if values is None else f"{values.dtype}"
            wrong[name] = f"feature {name!r} holds {what}, {chosen.kind} is for floats; give fox.hold() or fox.nearest()."
        elif chosen.kind == "slerp" and values.shape[-1:] != (4,):
            wrong[name] = f"feature {name!r} has shape {values.shape[1:]}, slerp is for quaternions (…, 4)."
    if wrong:
        raise AlignmentError("align: " + " ".join(wrong.values()), list(wrong))


def _cuts(streams: Mapping[str, Stream], times: Mapping[str, np.ndarray]) -> list[int]:
    """Return the arrival numbers from which on the streams are aligned apart, 0 first."""
    starts, known = [0], [name for name, stream in streams.items() if stream.arrival is not None]
    while True:
        found = []
        for name in known:
            arrival, received = streams[name].arrival, streams[name].received_ns
            assert arrival is not None
            begun = int(np.searchsorted(arrival, starts[-1]))
            back = set_back(times[name][begun:], None if received is None else received[begun:])
            if back is not None:
                found.append(int(arrival[begun + back]))
        if not found:
            return starts
        starts.append(min(found))


@dataclass(frozen=True)
class _Ordered:
    """Samples in order of time, one a time.

    Args:
        times_ns: `(N,)` int64, rising.
        numbers: `(N,)` int64, which samples they are; `None` for one after the other.
        first: The first of these.
    """

    times_ns: np.ndarray
    numbers: np.ndarray | None = None
    first: int = 0

    def sample(self, place: np.ndarray) -> np.ndarray:
        """Return which samples stand at places."""
        if self.numbers is not None:
            return self.numbers.take(place)
        return place + self.first if self.first else place

    def in_order(self, values: np.ndarray) -> np.ndarray:
        """Return values of samples in this order."""
        if self.numbers is not None:
            return values.take(self.numbers, 0)
        return values[self.first : self.first + len(self.times_ns)]


def _ordered(times: np.ndarray, arrival: np.ndarray | None, first: int, stop: int | None) -> _Ordered:
    """Put the samples from one arrival number up to another in order; of one stamp the last that came counts."""
    begin, end = 0, len(times)
    if arrival is not None:
        begin = int(np.searchsorted(arrival, first))
        end = end if stop is None else int(np.searchsorted(arrival, stop))
    here = times[begin:end]
    if bool((here[1:] > here[:-1]).all()):
        return _Ordered(here, None, begin)
    order = np.argsort(here, kind="stable")
    here = here[order]
    last = np.append(here[1:] != here[:-1], True)
    return _Ordered(here[last], order[last] + begin)


def _part(
    streams: Mapping[str, Stream], times: Mapping[str, np.ndarray], policy: Align, clock: str | None, first: int, stop: int | None
) -> tuple[np.ndarray, dict[str, Taken]]:
    """Align the samples that came from one arrival number up to another."""
    ordered = {name: _ordered(times[name], stream.arrival, first, stop) for name, stream in streams.items()}
    steps = _steps(ordered, policy, clock)
    return steps, {
        name: _taken(steps, ordered[name], streams[name].values, _fitting(name, streams[name], clock, policy)) for name in streams
    }


def _fitting(name: str, stream: Stream, clock: str | None, policy: Align) -> Policy:
    """Return the policy of a feature; a default that interpolates holds what cannot be interpolated."""
    chosen = policy_of(name, clock, policy)
    floats = stream.values is not None and stream.values.dtype.kind == "f"
    fits = floats and (chosen.kind == "linear" or stream.values.shape[-1:] == (4,))  # type: ignore[union-attr]
    return chosen if chosen.kind not in INTERPOLATING or fits else Policy("hold", chosen.within_s)


def _steps(ordered: Mapping[str, _Ordered], policy: Align, clock: str | None) -> np.ndarray:
    if clock is not None:
        return ordered[clock].times_ns
    filled = {name: samples.times_ns for name, samples in ordered.items() if len(samples.times_ns)}
    if not filled:
        return np.zeros(0, np.int64)
    if policy.rate_hz is None:
        # Stable sorting merges what is in order already; np.unique hashes, which takes ten times as long.
        every = np.sort(np.concatenate(list(filled.values())), kind="stable")
        return np.asarray(every[np.append(True, every[1:] != every[:-1])])
    first, last = min(int(t[0]) for t in filled.values()), max(int(t[-1]) for t in filled.values())
    count = int((last - first) * policy.rate_hz / 1e9) + 1
    if count > (most := max(MANY_STEPS, _STEPS_A_SAMPLE * sum(map(len, filled.values())))):
        raise _too_many(filled, count, most, policy.rate_hz)
    # One more than the division says, since it rounds; what lies past the end is cut off.
    grid = np.rint(np.arange(count + 1) * 1e9 / policy.rate_hz).astype(np.int64)
    return np.asarray(first + grid[grid <= last - first])


def _too_many(filled: Mapping[str, np.ndarray], count: int, most: int, rate_hz: float) -> TooManyStepsError:
    """Return an error that names the stamp furthest from all others, or the rate where that alone is too high."""
    every = np.sort(np.concatenate(list(filled.values())), kind="stable")
    gaps = np.diff(every)
    gap = int(np.argmax(gaps))
    low, high = int(every[gap]), int(every[gap + 1])
    span_s, apart_s = (int(every[-1]) - int(every[0])) / 1e9, (high - low) / 1e9
    if apart_s < _STRAY_S and float(np.median(gaps[gaps > 0])) / 1e9 * rate_hz > _STEPS_A_SAMPLE:  # all lie so far apart
        return TooManyStepsError(
            f"align: rate_hz={rate_hz:g} makes {count} steps of {len(every)} samples in {span_s:.3f} s; allowed are {most}. Take "
            f"rate_hz={0.9 * most / span_s:.2g} or less, or reference= (one of {listing(sorted(filled))}) or union=True, which "
            "make no more steps than there are samples."
        )
    stray = low if gap < len(every) / 2 else high
    name = min(name for name, times in filled.items() if stray in times)
    return TooManyStepsError(
        f"align: rate_hz={rate_hz:g} from the first stamp ({int(every[0])} ns) to the last ({int(every[-1])} ns) makes {count} steps of "
        f"{len(every)} samples. Feature {name!r} has the stamp {stray} ns, {apart_s:.0f} s apart from the next one: is its "
        f"clock right, and its time_unit? Take a lower rate_hz, or reference={name!r} (or another feature) or union=True, which make no "
        "more steps than there are samples."
    )


def _taken(steps: np.ndarray, samples: _Ordered, values: np.ndarray | None, policy: Policy) -> Taken:
    times = samples.times_ns
    ages = functools.partial(_ages, steps, times, policy)
    if not len(times):
        none = None if policy.kind not in INTERPOLATING else np.zeros((len(steps), *values.shape[1:]), values.dtype)  # type: ignore[union-attr]
        return Taken(np.full(len(steps), -1), ages, none)
    if policy.kind in INTERPOLATING:
        assert values is not None
        number, made = _between(steps, samples, values, policy)
        return Taken(number, ages, made)
    if steps is times:
        return Taken(samples.sample(np.arange(len(steps))), ages)
    place, head, tail = _places(steps, times, policy)
    sample = samples.sample(place)
    limit = 0 if policy.kind == "exact" else policy.within_ns
    if limit is not None:
        sample = np.where(np.abs(steps - times.take(place)) <= limit, sample, -1)
    sample[:head] = -1
    sample[tail:] = -1
    return Taken(sample, ages)


def _ages(steps: np.ndarray, times: np.ndarray, policy: Policy) -> np.ndarray:
    """Return `age_ns` of `Taken`."""
    if not len(times):
        return np.full(len(steps), NEVER)
    place, head, tail = _places(steps, times, policy)
    age = np.asarray(steps - times.take(place))
    age[:head] = NEVER
    age[tail:] = NEVER
    return age


def _places(steps: np.ndarray, times: np.ndarray, policy: Policy) -> tuple[np.ndarray, int, int]:
    """Return the place of the sample in question at each step, and the first step that has one, and the first after these."""
    if policy.kind == "next":
        place = _at_or_after(times, steps)
    elif policy.kind == "nearest":
        low, high = np.maximum(_at_or_before(times, steps), 0), np.minimum(_at_or_after(times, steps), len(times) - 1)
        place = np.where(np.abs(times[high] - steps) < np.abs(steps - times[low]), high, low)
    else:
        place = _at_or_before(times, steps)
    # Places rise, so that steps without one stand at the ends.
    head, tail = int(np.searchsorted(place, 0)), int(np.searchsorted(place, len(times)))
    if head > 0 or tail < len(steps):
        np.clip(place, 0, len(times) - 1, out=place)
    return place, head, tail


def _at_or_before(times: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the place of the newest of rising times at or before each of rising steps, −1 for none."""
    if len(times) >= len(steps):
        return np.searchsorted(times, steps, side="right") - 1
    first = np.searchsorted(steps, times)  # the few are looked up among the many
    return np.repeat(np.arange(-1, len(times)), np.diff(first, prepend=0, append=len(steps)))


def _at_or_after(times: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the place of the first of rising times at or after each of rising steps, the number of times for none."""
    if len(times) >= len(steps):
        return np.searchsorted(times, steps)
    past = np.searchsorted(steps, times, side="right")
    return np.repeat(np.arange(len(times) + 1), np.diff(past, prepend=0, append=len(steps)))


def _between(steps: np.ndarray, samples: _Ordered, values: np.ndarray, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Return which sample is at or before each step, and the values between it and the next."""
    times, values = samples.times_ns, samples.in_order(values)
    number = np.full(len(steps), -1)
    made = np.zeros((len(steps), *values.shape[1:]), values.dtype)
    between = _on_the_arc if policy.kind == "slerp" else _on_the_line
    known = _continuous(values.astype(np.float64)) if policy.kind == "slerp" else values
    before = _at_or_before(times, steps)
    # In pieces that stay near the processor: the float64 between two samples is never in memory as a whole.
    for first in range(int(np.searchsorted(before, 0)), len(steps), _PIECE):
        here = slice(first, min(first + _PIECE, len(steps)))
        low = before[here]
        since = steps[here] - times.take(low)
        exact = since == 0
        high = np.minimum(low + ~exact, len(times) - 1)
        gap = times.take(high) - times.take(low)
        there = exact | (gap > 0)
        if policy.within_ns is not None:
            there &= gap <= policy.within_ns
        made[here] = between(known.take(low, 0), known.take(high, 0), since / np.maximum(gap, 1))
        made[here][~there] = 0
        number[here] = np.where(there, samples.sample(low), -1)
    return number, made


def _on_the_line(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    low, made = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # between infinities lies nothing
        made -= low
        made *= share.reshape(-1, *[1] * (a.ndim - 1))
        made += low
    exact = share == 0
    if exact.any():  # the sample itself, infinite or not
        made[exact] = low[exact]
    return made


def _continuous(samples: np.ndarray) -> np.ndarray:
    """Return unit quaternions whose signs do not flip from one to the next."""
    norms = np.linalg.norm(samples, axis=-1, keepdims=True)
    samples = samples / np.where(norms == 0, 1, norms)
    flips = np.where((samples[1:] * samples[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    samples[1:] *= np.cumprod(flips, axis=0)
    return np.asarray(samples)


def _on_the_arc(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Shoemake, Animating rotation with quaternion curves (1985), eq. for the great arc; chords where the arc is tiny."""
    share = share.reshape(-1, *[1] * (a.ndim - 1))
    cosine = np.clip((a * b).sum(-1, keepdims=True), -1, 1)
    angle = np.arccos(cosine)
    sine = np.where(angle < 1e-6, 1, np.sin(angle))
    left = np.where(angle < 1e-6, 1 - share, np.sin((1 - share) * angle) / sine)
    right = np.where(angle < 1e-6, share, np.sin(share * angle) / sine)
    made = left * a + right * b
    norms = np.linalg.norm(made, axis=-1, keepdims=True)
    return np.asarray(made / np.where(norms == 0, 1, norms))

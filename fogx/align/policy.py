"""How streams become steps, said in one object."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fogx.errors import CorruptDataError, FeatureError, listing

INTERPOLATING = ("linear", "slerp")
KINDS = ("hold", "next", "nearest", "exact", *INTERPOLATING)
_LONGEST_S = 1e9
"""Beyond this ns no longer fit int64 with room to add."""


@dataclass(frozen=True)
class Policy:
    """What one feature has at a step; made by `fox.hold`, `fox.next`, `fox.nearest`, `fox.linear`, `fox.slerp`, `fox.exact`.

    Args:
        kind: One of `KINDS`.
        within_s: The furthest that a sample may be from the step (for interpolation: two samples from each other), in s,
            inclusive; `None` for any distance.
    """

    kind: str
    within_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FeatureError(f"alignment {self.kind!r} is none of {listing(KINDS)}.")
        if self.within_s is not None:
            object.__setattr__(self, "within_s", seconds("the limit of a policy", self.within_s))
            if self.within_s < 0:
                raise FeatureError(f"a policy reaches 0 s or more, found {self.within_s} s.")

    @property
    def within_ns(self) -> int | None:
        """`within_s` in ns."""
        return None if self.within_s is None else round(self.within_s * 1e9)


def hold(max_age_s: float | None = None) -> Policy:
    """The newest sample at or before the step. Causal: no value comes from the future.

    Args:
        max_age_s: Oldest age in s, inclusive; past it the step has no value. `None` for any age.
    """
    return Policy("hold", max_age_s)


def next(max_wait_s: float | None = None) -> Policy:
    """The first sample at or after the step, for labels: the command that an image caused.

    Args:
        max_wait_s: Longest time to the sample in s, inclusive; past it the step has no value. `None` for any.
    """
    return Policy("next", max_wait_s)


def nearest(tolerance_s: float | None = None) -> Policy:
    """The sample nearest to the step; of two at the same distance the earlier one.

    Args:
        tolerance_s: Furthest distance in s, inclusive; past it the step has no value. `None` for any.
    """
    return Policy("nearest", tolerance_s)


def linear(max_gap_s: float | None = None) -> Policy:
    """On the straight line between the samples before and after the step; none before the first sample and after the last.

    Args:
        max_gap_s: Furthest that the two may be apart in s, inclusive; past it the step has no value. `None` for any.
    """
    return Policy("linear", max_gap_s)


def slerp(max_gap_s: float | None = None) -> Policy:
    """As `linear`, for unit quaternions along the last axis (4), in any order of the parts; the result has length 1.

    Signs are made continuous first: a quaternion and its negative are one rotation, and a sensor may send either.

    Args:
        max_gap_s: As for `linear`.
    """
    return Policy("slerp", max_gap_s)


def exact() -> Policy:
    """A sample of exactly the step's time, or none."""
    return Policy("exact")


@dataclass(frozen=True)
class Align:
    """How streams become steps: `fox.Align(rate_hz=30, features={"tcp": fox.linear()}, default=fox.hold(max_age_s=0.2))`.

    Give at most one of `reference`, `rate_hz` and `union`. With none of them the steps are the samples of `action` where one is
    recorded, else of the feature with most samples (of several, the first by name).

    Args:
        reference: Feature whose samples are the steps.
        rate_hz: Steps at this rate: step k at the first sample of all plus k/rate_hz, rounded to ns, up to the last one,
            inclusive. Nothing adds up: no drift.
        union: Every time at which any feature has a sample is a step.
        features: Policies by feature name.
        default: Policy of the features that are not named; `fox.hold()` where none is given. `action` (and `action/…`) where it is
            not the clock takes `fox.next()` unless it is named: held, an image would be paired with the command before it.
        latency_s: By feature name, the time in s that its stamps are late: true time = stamp − latency. Negative where they are
            early.

    Raises:
        FeatureError: More than one clock, a rate that is not above 0, or something that is no policy or no number.
    """

    reference: str | None = None
    rate_hz: float | None = None
    union: bool = False
    features: Mapping[str, Policy] = field(default_factory=dict)
    default: Policy | None = None
    latency_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {"reference": self.reference is not None, "rate_hz": self.rate_hz is not None, "union": self.union is not False}
        clocks = [name for name, there in given.items() if there]
        if len(clocks) > 1:
            raise FeatureError(f"Align takes one of reference=, rate_hz= and union=, found {listing(clocks)}.")
        if self.reference is not None and not isinstance(self.reference, str):
            raise FeatureError(f"Align(reference=) is the name of a feature, found {type(self.reference).__name__}.")
        if not isinstance(self.union, bool):
            raise FeatureError(f"Align(union=) is True or False, found {type(self.union).__name__}.")
        if self.rate_hz is not None:
            object.__setattr__(self, "rate_hz", seconds("rate_hz", self.rate_hz))
            if not 1e-6 <= self.rate_hz <= 1e9:
                raise FeatureError(f"rate_hz lies between 0.000001 and 1e9 steps a second, found {self.rate_hz}.")
        for what, given_map in (("features", self.features), ("latency_s", self.latency_s)):
            if not isinstance(given_map, Mapping) or not all(isinstance(name, str) for name in given_map):
                raise FeatureError(
                    f"Align({what}=) is a dict by feature name, found {type(given_map).__name__}"
                    + (" with other keys than str." if isinstance(given_map, Mapping) else ".")
                )
        for name, policy in [*self.features.items(), *([("default", self.default)] if self.default is not None else [])]:
            if not isinstance(policy, Policy):
                raise FeatureError(
                    f"Align: {name!r} has {type(policy).__name__} for a policy; give fox.hold(), fox.next(), fox.nearest(), "
                    "fox.linear(), fox.slerp() or fox.exact()."
                )
        late = {name: seconds(f"latency_s of {name!r}", value) for name, value in self.latency_s.items()}
        # Copies that nobody changes: an episode keeps the policy that it was given.
        object.__setattr__(self, "features", MappingProxyType(dict(self.features)))
        object.__setattr__(self, "latency_s", MappingProxyType(late))

    def without(self, names: Collection[str]) -> Align:
        """Return the policy that says nothing of some features."""
        return replace(
            self,
            reference=None if self.reference in names else self.reference,
            features={name: policy for name, policy in self.features.items() if name not in names},
            latency_s={name: late for name, late in self.latency_s.items() if name not in names},
        )

    @property
    def says_clock(self) -> bool:
        """Whether the steps are said, and not left to fogx."""
        return self.reference is not None or self.rate_hz is not None or self.union

    def __hash__(self) -> int:
        return hash(repr(self.to_json()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Align.from_json, (self.to_json(),)

    def __repr__(self) -> str:
        shown: dict[str, Any] = {
            "reference": self.reference,
            "rate_hz": self.rate_hz,
            "union": self.union or None,
            "default": self.default,
        }
        shown |= {"features": dict(self.features) or None, "latency_s": dict(self.latency_s) or None}
        return f"Align({', '.join(f'{name}={value!r}' for name, value in shown.items() if value is not None)})"

    def to_json(self) -> dict[str, Any]:
        """Return the object as plain values, which `from_json` reads."""
        return {
            "reference": self.reference,
            "rate_hz": self.rate_hz,
            "union": self.union,
            "features": {name: [policy.kind, policy.within_s] for name, policy in sorted(self.features.items())},
            "default": None if self.default is None else [self.default.kind, self.default.within_s],
            "latency_s": dict(sorted(self.latency_s.items())),
        }

    @staticmethod
    def from_json(value: Any) -> Align:
        """Return the object that `to_json` gave these values for.

        Raises:
            CorruptDataError: They are not such values.
        """
        try:
            known = dict(value)
            default = known.pop("default")
            policies = {str(name): Policy(kind, within) for name, (kind, within) in known.pop("features").items()}
            return Align(**known, features=policies, default=None if default is None else Policy(*default))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CorruptDataError(f"no alignment that fogx writes: {str(error)[:200]}") from error


def seconds(what: str, value: Any) -> float:
    """Return a number of seconds (or of Hz) as float.

    Raises:
        FeatureError: No number, or one that is not finite or too large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > _LONGEST_S:
        raise FeatureError(f"{what} is a finite number up to {_LONGEST_S:.0f}, found {value!r:.60}.")
    return float(value)

"""Where a run through the samples stands, and the sampler for loaders that are not fogx' own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fogx.errors import SelectionError
from fogx.training.anchors import whole_number
from fogx.training.order import Draw, Order, draws

_CHUNK = 8192


class Cursor:
    """Seed, epoch, and how many samples of the epoch were delivered: all that is needed to go on.

    Args:
        order: The order of the samples.
        seed: From 0.

    Raises:
        SelectionError: The seed is no whole number from 0.
    """

    def __init__(self, order: Order, seed: int) -> None:
        self.order = order
        self.seed = whole_number("seed", seed, 0)
        self.epoch = 0
        self.position = 0
        self._goes_on = True

    def start(self, least: int = 1) -> tuple[int, int]:
        """Return epoch and position at which an iteration that begins now starts.

        An epoch of which some was delivered is over when another iteration begins, except where a state was loaded. So is one
        that has fewer than `least` samples left.
        """
        if self._goes_on and (self.position == 0 or self.position + least <= len(self.order)):
            return self.epoch, self.position
        return self.epoch + 1, 0

    def deliver(self, epoch: int, position: int) -> None:
        """Note that the samples of an epoch were delivered up to a position, not included."""
        self.epoch, self.position, self._goes_on = epoch, position, False

    def finish(self, epoch: int) -> None:
        """Note that an epoch was delivered whole."""
        self.set_epoch(epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be the epoch of this number; one that a loaded state is in the middle of goes on there."""
        if epoch != self.epoch or not self._goes_on:
            self.epoch, self.position, self._goes_on = epoch, 0, True

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers and text."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position, "order": repr(self.order)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says.

        Raises:
            SelectionError: It is no such state, or belongs to other samples or another order.
        """
        wanted = self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(wanted):
            found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise SelectionError(
                f"This is no state of a fogx loader: it has {found}, needed are {sorted(wanted)}. "
                "Give what state_dict() of a loader or sampler of fogx returned."
            )
        if state["order"] != wanted["order"]:
            raise SelectionError(
                f"The state belongs to {state['order']}, this is {wanted['order']}, so its position means nothing here. "
                "Make the loader from the same selection and arguments; ranks, workers and batch size may be others."
            )
        self.seed, self.epoch, self.position = int(state["seed"]), int(state["epoch"]), int(state["position"])
        self._goes_on = True


class Sampler:
    """The numbers of items in an order that depends on (seed, epoch) alone; see `StepDataset.sampler`.

    Iterating it is one epoch; iterating again is the next one, unless `set_epoch` says which. Its state counts samples that
    were taken from it, which torchdata's `StatefulDataLoader` matches with what it delivered.

    Args:
        order: The order of the items.
        seed: From 0.

    Raises:
        SelectionError: The seed is no whole number from 0.
    """

    def __init__(self, order: Order, seed: int) -> None:
        self._cursor = Cursor(order, seed)

    def __len__(self) -> int:
        return len(self._cursor.order)

    def __iter__(self) -> Iterator[Draw]:
        cursor = self._cursor
        epoch, position = cursor.start()
        for first in range(position, len(self), _CHUNK):
            for draw in draws(cursor.order, cursor.seed, epoch, first, min(first + _CHUNK, len(self))):
                position += 1
                cursor.deliver(epoch, position)
                yield draw
        cursor.finish(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be the epoch of this number, counted from 0."""
        self._cursor.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and position as plain numbers and text."""
        return self._cursor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says.

        Raises:
            SelectionError: It is no such state, or belongs to other items or another order.
        """
        self._cursor.load_state_dict(state)

    def __repr__(self) -> str:
        cursor = self._cursor
        return f"<fogx sampler: {cursor.order}, seed {cursor.seed}; epoch {cursor.epoch}, {cursor.position} taken>"

"""Steps without timestamps: which values belong together."""

from __future__ import annotations

from collections.abc import Collection


class StepGrouper:
    """Groups values into steps as they come.

    A step begins when a feature is given again that the current step already has, so a plain loop of `add` calls makes one step
    a turn, whatever the clock did. Values given in one call stay in one step.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self._current: set[str] | None = None

    def resume(self, num_steps: int) -> None:
        """Go on after so many steps; nothing joins them."""
        self.num_steps, self._current = num_steps, None

    def place(self, names: Collection[str]) -> int:
        """Return the 0-based step of the next value, or of values given together, beginning a step where needed."""
        if self._current is None or not self._current.isdisjoint(names):
            self._current = set()
            self.num_steps += 1
        self._current.update(names)
        return self.num_steps - 1

    def place_one(self, name: str) -> int:
        """Return what `place` returns for one value."""
        if self._current is None or name in self._current:
            self._current = {name}
            self.num_steps += 1
        else:
            self._current.add(name)
        return self.num_steps - 1

    def place_alone(self) -> int:
        """Return the 0-based step of values that make a whole step: nothing before or after joins it."""
        self._current = None
        self.num_steps += 1
        return self.num_steps - 1

"""The contract of executors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fogx.errors import CorruptDataError
from fogx.protocols import Executor


def double_below_thirty(task: int) -> int:
    """Return twice the task. At the top level, so that it can be sent to other processes."""
    if task >= 30:
        raise CorruptDataError(f"task {task} is damaged")
    return 2 * task


class ExecutorContract:
    """Set `executor`; `most_ahead` is how many tasks it may take beyond the results that were asked for."""

    executor: Executor
    most_ahead = 16

    def test_results_keep_the_order_of_the_tasks(self) -> None:
        assert isinstance(self.executor, Executor)
        assert list(self.executor.map(double_below_thirty, range(29, -1, -1))) == list(range(58, -1, -2))
        assert list(self.executor.map(double_below_thirty, ())) == []

    def test_an_error_arrives_in_its_place(self) -> None:
        results = iter(self.executor.map(double_below_thirty, range(100)))
        assert [next(results) for _ in range(30)] == list(range(0, 60, 2))
        with pytest.raises(CorruptDataError, match="task 30 is damaged"):
            next(results)

    def test_only_a_few_tasks_are_taken_ahead(self) -> None:
        taken = []

        def tasks() -> Iterator[int]:
            for task in range(1000):
                taken.append(task)
                yield task

        results = iter(self.executor.map(double_below_thirty, tasks()))
        for asked in range(1, 6):
            assert next(results) == 2 * (asked - 1)
            assert len(taken) <= asked + self.most_ahead

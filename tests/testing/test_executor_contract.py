from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from fogx import registry
from fogx.errors import CorruptDataError
from fogx.executors.inline import InlineExecutor
from fogx.testing.executors import ExecutorContract


class TestInline(ExecutorContract):
    executor = registry.get("executors", "inline")
    most_ahead = 0


class Broken:
    """Runs tasks with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        match self.fault:
            case "takes all tasks":
                tasks = list(tasks)
            case "gives the last first":
                tasks = list(tasks)[::-1]
            case "wraps errors":
                function = self.wrapped(function)
        try:
            yield from InlineExecutor().map(function, tasks)
        except CorruptDataError:
            if self.fault != "swallows errors":
                raise

    def wrapped(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(task: Any) -> Any:
            try:
                return function(task)
            except CorruptDataError as error:
                raise RuntimeError(str(error)) from None

        return call


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("gives the last first", "test_results_keep_the_order_of_the_tasks"),
        ("takes all tasks", "test_only_a_few_tasks_are_taken_ahead"),
        ("swallows errors", "test_an_error_arrives_in_its_place"),
        ("wraps errors", "test_an_error_arrives_in_its_place"),
    ],
)
def test_a_broken_executor_fails(fault: str, check: str) -> None:
    class Suite(ExecutorContract):
        executor = Broken(fault)

    with pytest.raises((AssertionError, pytest.fail.Exception, RuntimeError, StopIteration)):
        getattr(Suite(), check)()

import itertools

from fogx import registry
from fogx.protocols import Executor


def test_results_come_in_order_and_only_when_asked_for():
    ran = []

    def double(n):
        ran.append(n)
        return 2 * n

    executor = registry.get("executors", "inline")
    assert isinstance(executor, Executor)
    results = executor.map(double, itertools.count())
    assert ran == []
    assert [next(results), next(results)] == [0, 2]
    assert ran == [0, 1]

from hypothesis import given
from hypothesis import strategies as st

from fogx.recording.grouping import StepGrouper

CALLS = st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from("abcd"), min_size=1)), max_size=40)


def by_brute_force(calls):
    """The rule, read literally: build lists of calls; a new one begins where a name repeats or the call stands alone."""
    steps = []
    for alone, names in calls:
        open_step = steps and not any(was_alone for was_alone, _ in steps[-1])
        if alone or not open_step or any(names & earlier for _, earlier in steps[-1]):
            steps.append([])
        steps[-1].append((alone, names))
    return [i for i, step in enumerate(steps) for _ in step]


@given(CALLS)
def test_same_as_brute_force(calls):
    grouper = StepGrouper()
    found = [grouper.place_alone() if alone else grouper.place(names) for alone, names in calls]
    assert found == by_brute_force(calls)
    assert grouper.num_steps == (found[-1] + 1 if found else 0)


def test_a_plain_loop_gives_one_step_a_turn_in_any_order_within_the_turn():
    grouper = StepGrouper()
    turns = [("a", "b", "c"), ("a", "c", "b"), ("a", "b"), ("a", "b", "c")]
    assert [[grouper.place({name}) for name in turn] for turn in turns] == [[0, 0, 0], [1, 1, 1], [2, 2], [3, 3, 3]]

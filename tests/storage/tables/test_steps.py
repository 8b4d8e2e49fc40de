"""Samples that are named by step, and numbers that no writer gives."""

import numpy as np
import pytest

from fogx.errors import CorruptDataError
from fogx.protocols import Column
from fogx.storage.tables.steps import with_values

STEPS = {"x": Column(np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]), np.array([True, True, False]))}


def numbers(*values, valid=None):
    return {"x": Column(np.array(values, np.int32), valid)}


def test_values_stand_where_samples_have_the_feature():
    valid = np.array([True, False, True])
    found = with_values(numbers(1, 7, 0, valid=valid), STEPS, ["x"])["x"]
    assert found.values[valid].tolist() == [[3, 4], [1, 2]]
    assert found.valid is valid
    none = Column(np.zeros((0, 2)))
    assert with_values(numbers(0, 0, valid=np.zeros(2, bool)), {"x": none}, ["x"])["x"].values.shape == (2, 2)


@pytest.mark.parametrize(
    ("sent", "in_steps", "says"),
    [
        (numbers(3), ["x"], "'x' name steps that do not hold them, of 3 steps"),
        (numbers(-1), ["x"], "do not hold them"),
        (numbers(2), ["x"], "do not hold them"),
        (numbers(0, 0), ["x"], "do not hold them"),
        (numbers(0), ["y"], "'y' are named by step, and there is no such feature"),
        (numbers(0), [None], "no such feature"),
    ],
)
def test_numbers_that_no_writer_gives(sent, in_steps, says):
    with pytest.raises(CorruptDataError, match=says):
        with_values(sent, STEPS, in_steps)

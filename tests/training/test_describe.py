"""Statistics of batches against numpy on all values at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.training import describe as describe_module
from fogx.training.describe import ELEMENTWISE, describe
from fogx.training.itemstats import PARTS, QUANTILES


def expected(rows):
    """Statistics of (N, E) rows by numpy, NaN left out, element by element."""
    result = {part: [] for part in PARTS}
    for column in np.asarray(rows, np.float64).T:
        there = column[~np.isnan(column)]
        for part, value in zip(("mean", "std", "min", "max"), (np.mean, np.std, np.min, np.max), strict=True):
            result[part].append(value(there) if len(there) else np.nan)
        for part, q in QUANTILES.items():
            result[part].append(np.quantile(there, q) if len(there) else np.nan)
    return result


def assert_numbers(numbers, rows):
    rows = np.asarray(rows, np.float64)
    assert np.array_equal(numbers.count.reshape(-1), (~np.isnan(rows)).sum(axis=0))
    for part, wanted in expected(rows).items():
        np.testing.assert_allclose(numbers[part].reshape(-1), wanted, rtol=1e-9, atol=1e-9, err_msg=part)


@given(st.data())
def test_batches_together_are_numpy_on_all_values_that_count(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,), (70,)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int16, bool]))
    windowed, nullable = data.draw(st.booleans()), data.draw(st.booleans())
    batches, counted = [], []
    for size in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)):
        lead = (size, 3) if windowed else (size,)
        values = (rng.normal(size=(*lead, *shape)) * 10).astype(dtype)
        if np.dtype(dtype).kind == "f" and data.draw(st.booleans()):
            values[rng.random(values.shape) < 0.3] = np.nan
        batch, keep = {"x": values, "word": np.full(size, "a", object)}, np.ones(lead, bool)
        if windowed:
            batch["x_is_pad"] = rng.random(lead) < 0.4
            keep &= ~batch["x_is_pad"]
        if nullable:
            batch["x_is_valid"] = rng.random(lead) < 0.6
            keep &= batch["x_is_valid"]
        batches.append(batch)
        counted.append(values[keep])
    stats = describe(batches, sum(len(batch["x"]) for batch in batches), 2)
    assert (list(stats), stats.num_episodes) == (["x"], 2)
    numbers = stats["x"]
    assert (numbers.shape, numbers.dtype, numbers.rank_error, numbers.sampled) == (shape, np.dtype(dtype).name, 0.0, None)
    rows = np.concatenate(counted)
    assert_numbers(numbers, rows.reshape(len(rows), int(np.prod(shape))))


@given(st.integers(0, 99), st.booleans(), st.sampled_from([np.uint8, np.uint16]), st.sampled_from([1, 3]))
def test_images_are_counted_per_channel(seed, windowed, dtype, channels):
    rng = np.random.default_rng(seed)
    lead = (4, 2) if windowed else (4,)
    images = rng.integers(0, np.iinfo(dtype).max, (*lead, channels, 3, 5), dtype=dtype, endpoint=True)
    pad = rng.random(lead) < 0.3
    batch = {"view": images, "view_is_pad": pad} if windowed else {"view": images}
    numbers = describe([batch, batch], 20, 1, images=["view"])["view"]
    assert (numbers.shape, numbers.image, numbers.sampled) == ((channels, 1, 1), True, 8)
    kept = images[~pad] if windowed else images
    rows = np.moveaxis(kept, 1, -1).reshape(-1, channels)
    assert_numbers(numbers, np.concatenate([rows, rows]))


def test_images_of_which_none_counts():
    batch = {"view": np.zeros((2, 3, 4, 4), np.uint8), "view_is_valid": np.zeros(2, bool)}
    numbers = describe([batch], 2, 1, images=["view"])["view"]
    assert numbers.count.reshape(-1).tolist() == [0, 0, 0]
    assert np.isnan(numbers["mean"]).all()


def test_images_that_a_transform_made_floats_are_counted_together():
    batch = {"view": np.random.default_rng(0).random((2, 3, 32, 32), np.float32)}
    numbers = describe([batch], 2, 1, images=["view"])["view"]
    assert (numbers.shape, int(numbers.count), numbers.image) == ((), 2 * 3 * 32 * 32, False)


def test_many_elements_are_counted_together():
    wide = np.random.default_rng(0).normal(size=(3, ELEMENTWISE + 1))
    numbers = describe([{"x": wide[:2]}, {"x": wide[2:]}], 3, 1)["x"]
    assert numbers.shape == ()
    assert_numbers(numbers, wide.reshape(-1, 1))


def test_quantiles_of_many_values_are_within_the_stated_error(monkeypatch):
    monkeypatch.setattr(describe_module, "EXACT_VALUES", 999)
    values = np.random.default_rng(3).normal(size=(20, 500, 2))
    numbers = describe([{"x": part} for part in values], 10_000, 1)["x"]
    rows = values.reshape(-1, 2)
    assert numbers.rank_error == 0.0133
    for part in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(numbers[part], expected(rows)[part], rtol=1e-9, atol=1e-12)
    for part, q in QUANTILES.items():
        for element in range(2):
            rank = np.mean(rows[:, element] <= numbers[part][element])
            assert abs(rank - q) <= 2 * numbers.rank_error, "the bound holds for 99 sketches in 100; none is far beyond it"


def test_infinities_count_and_warn_of_nothing():
    numbers = describe([{"x": np.array([1.0, np.inf, -np.inf])}], 3, 1)["x"]
    assert (numbers.count, numbers["min"], numbers["max"]) == (3, -np.inf, np.inf)


@pytest.mark.parametrize("name", ["x_is_pad", "x_is_valid"])
def test_a_feature_that_is_only_named_like_a_mask_is_counted(name):
    assert list(describe([{name: np.array([True, False])}], 2, 1)) == [name]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import NUMERIC_DTYPES
from fogx.stats import MAX_ELEMENTS, FeatureStats

RANK_ERROR = 0.0133

FLOATS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 30), st.just(3)),
    elements=st.one_of(st.floats(-1e6, 1e6), st.just(np.nan)),
)


def expected(values):
    """Statistics of (N, E) values by numpy, NaN left out."""
    columns = [c[~np.isnan(c)] for c in values.T]
    return {
        "count": [len(c) for c in columns],
        "mean": [c.mean() if len(c) else np.nan for c in columns],
        "std": [c.std() if len(c) else np.nan for c in columns],
        "min": [c.min() if len(c) else np.nan for c in columns],
        "max": [c.max() if len(c) else np.nan for c in columns],
    }


def assert_same(stats, values):
    for name, want in expected(values).items():
        np.testing.assert_allclose(getattr(stats, name).reshape(-1), want, rtol=1e-7, atol=1e-3, err_msg=name)


@given(FLOATS, FLOATS, FLOATS)
def test_merging_in_any_order_is_numpy_on_all_values(a, b, c):
    sa, sb, sc = (FeatureStats.of(x) for x in (a, b, c))
    together = np.concatenate([a, b, c])
    assert_same(sa.merge(sb).merge(sc), together)
    assert_same(sa.merge(sb.merge(sc)), together)
    assert_same(sc.merge(sa).merge(sb), together)
    assert_same(sa, a)


@given(FLOATS, st.data())
def test_steps_that_are_not_valid_do_not_count(values, data):
    valid = data.draw(hnp.arrays(bool, len(values)))
    assert_same(FeatureStats.of(values, valid), values[valid])


def test_empty_episodes_have_no_mean_and_merge_away():
    empty = FeatureStats.of(np.zeros((0, 2)))
    assert empty.count.tolist() == [0, 0]
    for values in (empty.mean, empty.std, empty.min, empty.max, empty.quantile(0.5)):
        assert np.isnan(values).all()
    some = FeatureStats.of(np.array([[1.0, 2.0], [3.0, 2.0]]))
    for merged in (empty.merge(some), some.merge(empty)):
        assert merged.mean.tolist() == [2.0, 2.0]
        assert merged.std.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_every_dtype(dtype):
    stats = FeatureStats.of(np.array([0, 1, 1, 1]).astype(dtype))
    assert (stats.shape, stats.count, stats.mean, stats.min, stats.max) == ((), 4, 0.75, 0.0, 1.0)
    assert stats.std == pytest.approx(np.sqrt(3) / 4)


def test_elements_are_counted_one_by_one_up_to_the_limit_and_pooled_above():
    fits = FeatureStats.of(np.ones((5, 8, 8)))
    assert fits.shape == (8, 8)
    assert fits.count.shape == (8, 8)
    assert len(fits.sketches) == MAX_ELEMENTS
    pooled = FeatureStats.of(np.arange(5 * 65.0).reshape(5, 65), np.array([1, 1, 0, 1, 1], bool))
    assert pooled.shape == ()
    assert pooled.count == 4 * 65
    assert pooled.max == 5 * 65 - 1
    assert FeatureStats.of(np.zeros((5, 0))).count.shape == (0,)


def test_infinities_count():
    stats = FeatureStats.of(np.array([1.0, np.inf, -np.inf]))
    assert (stats.count, stats.min, stats.max) == (3, -np.inf, np.inf)


def rank_error(values, found, q):
    low, high = np.mean(values < found), np.mean(values <= found)
    return max(0.0, low - q, q - high)


def test_quantiles_of_merged_episodes_are_within_the_stated_rank_error():
    rng = np.random.default_rng(5)
    episodes = [rng.normal(size=(300, 20)) * rng.uniform(0.1, 9) for _ in range(40)]
    merged = FeatureStats.of(episodes[0])
    for values in episodes[1:]:
        merged = merged.merge(FeatureStats.of(values))
    together = np.concatenate(episodes)
    errors = [
        max(rank_error(together[:, i], merged.quantile(q)[i], q) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.99))
        for i in range(together.shape[1])
    ]
    # The bound holds for 99 sketches in 100, whatever bits they drew; none of 20 is far beyond it.
    assert np.median(errors) <= RANK_ERROR
    assert max(errors) <= 2 * RANK_ERROR
    assert np.array_equal(merged.quantile(0), together.min(axis=0))
    assert np.array_equal(merged.quantile(1), together.max(axis=0))


def test_quantiles_of_few_values_are_exact():
    stats = FeatureStats.of(np.random.default_rng(1).permutation(101.0 * np.arange(101)))
    assert [stats.quantile(q).item() for q in (0, 0.5, 1)] == [0, 101 * 50, 101 * 100]


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_quantile_outside_0_to_1_is_an_error(q):
    with pytest.raises(FeatureError, match="from 0 to 1"):
        FeatureStats.of(np.zeros(3)).quantile(q)


def test_unlike_shapes_do_not_merge():
    with pytest.raises(FeatureError, match=r"\(2,\) and \(3,\)"):
        FeatureStats.of(np.zeros((3, 2))).merge(FeatureStats.of(np.zeros((3, 3))))


def test_stored_form_comes_back_also_from_lists():
    stats = FeatureStats.of(np.random.default_rng(2).normal(size=(400, 2, 3)))
    stored = stats.to_dict()
    assert stored["mean"].shape == (6,)
    back = FeatureStats.from_dict({k: list(v) for k, v in stored.items()})
    for name in ("count", "mean", "m2", "min", "max"):
        assert np.array_equal(getattr(back, name), getattr(stats, name))
    assert np.array_equal(back.quantile(0.3), stats.quantile(0.3))


@pytest.mark.parametrize(
    "change",
    [
        {"sketches": [b"", b""]},
        {"sketches": [b"x" * 40] * 2},
        {"sketches": []},
        {"mean": [1.0]},
        {"shape": ["a"]},
        {"count": [4, 3]},
    ],
)
def test_damaged_stored_form_is_corrupt_data(change):
    stored = FeatureStats.of(np.zeros((3, 2))).to_dict()
    with pytest.raises(CorruptDataError):
        FeatureStats.from_dict({**stored, **change})
    missing = dict(stored)
    del missing[next(iter(change))]
    with pytest.raises(CorruptDataError):
        FeatureStats.from_dict(missing)

"""Each class is completely in one split, in the requested fractions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool
from meta_keras.tasks.splitting import apportioned

NAMES = ("train", "validation", "test")


def pool_of(classes, **more):
    """A pool of two examples per class, in which every example is its own row number."""
    return ClassPool(np.arange(2 * classes, dtype=np.float32)[:, None], np.arange(2 * classes) // 2, **more)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(3, 60), st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(0, 2**40))
def test_every_class_is_in_exactly_one_split(classes, weights, seed):
    fractions = np.array(weights) / sum(weights)
    pool = pool_of(classes)
    parts = [pool.split_classes(*fractions, seed=seed).split(name) for name in NAMES]
    assert sorted(name for part in parts for name in part.names) == sorted(pool.names)
    assert sorted(np.concatenate([part.examples[:, 0] for part in parts])) == list(range(2 * classes))
    for part, fraction in zip(parts, fractions, strict=True):
        assert len(part) == 1 or abs(len(part) - fraction * classes) < 1 or fraction * classes < 2
        assert (part.counts == 2).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(3, 1000), st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any))
def test_sizes_have_the_right_sum_and_none_is_zero_without_need(total, weights):
    fractions = dict(zip(NAMES, np.array(weights) / sum(weights), strict=True))
    sizes = apportioned(total, fractions, "classes")
    assert sum(sizes) == total
    assert [size > 0 for size in sizes] == [weight > 0 for weight in weights]
    exact = np.array(list(fractions.values())) * total
    if (exact[exact > 0] >= 1).all():
        assert (np.abs(sizes - exact) < 1).all()


def test_the_default_is_three_to_one_to_one_and_the_seed_decides_which():
    first, again, other = (pool_of(10).split_classes(seed=seed) for seed in (0, 0, 1))
    assert [len(first.split(name)) for name in NAMES] == [6, 2, 2]
    assert first.splits.tolist() == again.splits.tolist() != other.splits.tolist()


def test_every_class_is_as_likely_to_be_in_the_test_split():
    counts = sum(np.array(pool_of(5).split_classes(seed=seed).splits[::2] == "test", int) for seed in range(500))
    assert counts.sum() == 500 and counts.min() > 70 and counts.max() < 130


def test_within_a_grouping_groups_stay_together_and_their_names_stay():
    groups = np.array(list("aabbbcdddde"))
    pool = pool_of(11, groupings={"letter": groups})
    split = pool.split_classes(0.6, 0.2, 0.2, within="letter", seed=2)
    parts = [split.split(name).groupings["letter"] for name in NAMES]
    assert [len(set(part)) for part in parts] == [3, 1, 1]
    assert sum(map(len, parts)) == 11 and len(set.union(*map(set, parts))) == 5


def test_a_split_can_be_left_out_and_a_single_split_can_be_split_again():
    pool = pool_of(10).split_classes(0.8, 0, 0.2)
    with pytest.raises(ValueError, match="no split 'validation'"):
        pool.split("validation")
    again = pool.split("train").split_classes(0.75, 0.25, 0)
    assert [len(again.split(name)) for name in NAMES[:2]] == [6, 2]
    assert not set(again.names) & set(pool.split("test").names)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": 0.9}, r"must have the sum 1; got train=0.9, validation=0.2, test=0.2, with the sum 1.3"),
        ({"train": 60}, "train must be a number from 0 to 1; got 60"),
        ({"test": float("nan")}, "test must be a number from 0 to 1; got nan"),
        ({"test": -0.2}, "test must be a number from 0 to 1; got -0.2"),
        ({"test": True}, "test must be a number from 0 to 1; got True"),
        ({"test": "0.2"}, "test must be a number from 0 to 1; got '0.2'"),
        ({"test": [0.2]}, r"test must be a number from 0 to 1; got \[0.2\]"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"seed": None}, "seed must be an integer of at least 0; got None"),
        ({"within": "alphabet"}, "no grouping 'alphabet'; it has 'kind'"),
        ({"within": 3}, "no grouping 3; it has 'kind'"),
        ({"within": "kind"}, "3 splits need at least as many kind groups, but this pool has 2. Set a fraction to 0"),
    ],
)
def test_splits_that_cannot_be_made_are_told_why(wrong, message):
    with pytest.raises(ValueError, match=message):
        pool_of(4, groupings={"kind": ["a", "a", "b", "b"]}).split_classes(**wrong)


def test_too_few_classes_and_a_second_split_are_refused():
    with pytest.raises(ValueError, match="3 splits need at least as many classes, but this pool has 2"):
        pool_of(2).split_classes()
    with pytest.raises(ValueError, match=r"already has the splits '.*', '.*', '.*'. Choose one with split"):
        pool_of(9).split_classes().split_classes()


@pytest.mark.parametrize("after", [lambda p: p, lambda p: p.select([0, 5, 9]), lambda p: p.map(lambda x: x)])
def test_turned_copies_of_a_class_never_reach_another_split(after):
    pool = ClassPool(np.random.default_rng(0).random((6, 3, 3, 1)), np.arange(6) // 2)
    with pytest.raises(ValueError, match="Split first, and rotate or cluster afterwards"):
        after(pool.rotated()).split_classes()
    train, test = (pool.split_classes(0.6, 0, 0.4).rotated().split(name) for name in ("train", "test"))
    originals = [{name.partition(" ")[0] for name in part.names} for part in (train, test)]
    assert not originals[0] & originals[1] and len(train) + len(test) == 12

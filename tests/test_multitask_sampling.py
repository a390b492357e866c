"""Batches for tasks of different sizes."""

import itertools

import numpy as np
import pytest

from meta_keras.multitask import mix_tasks

LARGE = (np.arange(50.0)[:, None], np.arange(50) % 3)
SMALL = (100 + np.arange(5.0)[:, None], np.linspace(0, 1, 5)[:, None])


def batches(count, **options):
    return [(x.numpy(), {k: v.numpy() for k, v in y.items()}) for x, y in itertools.islice(mixed(**options), count)]


def mixed(**options):
    return mix_tasks({"large": LARGE, "small": SMALL}, **options)


def test_every_task_has_as_many_rows_in_every_batch():
    for x, y in batches(7, rows=3):
        assert (x[:, 0] < 100).sum() == (x[:, 0] >= 100).sum() == 3
        assert (y["large"] >= 0).sum() == 3 and np.isfinite(y["small"]).sum() == 3


def test_labels_belong_to_their_examples_and_are_missing_elsewhere():
    for x, y in batches(20, rows=4):
        of_large = x[:, 0] < 100
        np.testing.assert_array_equal(y["large"][of_large], x[of_large, 0] % 3)
        np.testing.assert_allclose(y["small"][~of_large, 0], (x[~of_large, 0] - 100) / 4)
        assert (y["large"][~of_large] == -1).all() and np.isnan(y["small"][of_large]).all()


def test_each_pass_uses_every_row_once_in_a_new_order():
    rows = np.concatenate([x[1:, 0] for x, _ in batches(15, rows={"large": 1, "small": 1})])
    first, second, third = rows.reshape(3, 5)
    assert set(first) == set(second) == set(third) == set(SMALL[0][:, 0])
    assert list(first) != list(second) or list(second) != list(third)


def test_some_tasks_can_be_more_frequent():
    for x, _ in batches(3, rows={"large": 5, "small": 2}):
        assert (x[:, 0] < 100).sum() == 5 and len(x) == 7


def test_a_seed_determines_the_batches():
    one, again, other = (batches(4, rows=3, seed=seed) for seed in (1, 1, 2))
    assert all((a[0] == b[0]).all() for a, b in zip(one, again, strict=True))
    assert any((a[0] != b[0]).any() for a, b in zip(one, other, strict=True))


def test_unsigned_labels_can_be_missing_too():
    _, y = next(
        iter(
            mix_tasks(
                {"a": (np.zeros((4, 1)), np.arange(4, dtype=np.uint8)), "b": (np.zeros((4, 1)), np.ones(4))}, rows=2
            )
        )
    )
    assert sorted(y["a"].numpy())[:2] == [-1, -1]


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        ({}, {}, "at least one task"),
        ({"a": LARGE}, {"rows": 0}, "rows must be an integer of at least 1"),
        ({"a": LARGE}, {"rows": {"b": 1}}, r"rows must have the tasks of data, \['a'\]; got \['b'\]"),
        ({"a": LARGE, "b": (np.zeros((5, 2)), np.zeros(5))}, {}, "must have one shape and type"),
        ({"a": (LARGE[0], LARGE[1][:3])}, {}, "got 3 for 50 examples"),
        ({"a": LARGE[0]}, {}, "must be a pair"),
        ({"a": LARGE}, {"seed": 2**70}, "seed must fit into 64 bits"),
    ],
)
def test_errors_say_what_is_wrong(data, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        mix_tasks(data, **options)

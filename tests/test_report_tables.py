"""Tables, lines of logs, and scores of values with their confidence intervals."""

import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import Score
from meta_keras.report import Lines, Table, mean_and_interval

STUDENT = {2: 12.706, 5: 2.776, 30: 2.045, 600: 1.964}


@pytest.mark.parametrize(("count", "t"), STUDENT.items())
def test_the_interval_is_that_of_student(count, t):
    values = np.random.default_rng(count).normal(3, 2, count)
    mean, half = mean_and_interval(values)
    assert mean == pytest.approx(values.sum() / count)
    assert half * np.sqrt(count) / values.std(ddof=1) == pytest.approx(t, abs=6e-4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.floats(-5, 5), st.floats(0.5, 3))
def test_mean_and_interval_move_and_stretch_with_the_values(values, shift, scale):
    mean, half = mean_and_interval(values)
    moved_mean, moved_half = mean_and_interval([scale * value + shift for value in values])
    assert moved_mean == pytest.approx(scale * mean + shift, abs=1e-9)
    assert moved_half == pytest.approx(scale * half, abs=1e-9) and half >= 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least 2 values; got 0"),
        ([1.0], "at least 2 values; got 1"),
        ([1.0, np.nan, np.inf], "values must be finite; 2 of the 3 are not"),
    ],
)
def test_too_few_values_and_values_that_are_not_finite_have_no_interval(values, message):
    with pytest.raises(ValueError, match=message):
        mean_and_interval(values)


def test_a_score_of_values_has_their_mean_and_interval_and_keeps_them():
    score = Score.of([0.5, 0.7, 0.6], "recall")
    assert score.metric == "recall" and (score.mean, score.interval) == mean_and_interval([0.5, 0.7, 0.6])
    np.testing.assert_array_equal(score.values, [0.5, 0.7, 0.6])
    assert str(score) == "recall 0.600 ± 0.248 (95 % interval over 3 values)"


@pytest.mark.parametrize("values", ["x", [[1.0], [2.0, 3.0]], [None, 1.0], {1.0, 2.0}, [1j, 2.0]])
def test_values_that_are_no_numbers_have_no_interval(values):
    with pytest.raises(ValueError, match="values must be an array of numbers"):
        Score.of(values)


def test_a_table_aligns_text_to_the_left_and_numbers_to_the_right():
    score = Score("accuracy", 0.5, 0.01, np.zeros(3))
    table = Table([{"who": "a learner", "n": 5, "score": 0.25}, {"who": "b", "n": 10, "score": np.float32(1)}])
    assert str(table) == "who         n  score\na learner   5  0.250\nb          10  1.000"
    assert str(Table([{"x": score}])) == "            x\n0.500 ± 0.010"


def test_a_table_is_markdown_in_a_notebook_whatever_its_cells_hold():
    table = Table([{"a|b": "x|y\nz", "score": 0.5}])
    assert table._repr_markdown_() == "| a\\|b | score |\n| --- | ---: |\n| x\\|y<br>z | 0.500 |"
    cells = [re.split(r"(?<!\\)\|", line) for line in table._repr_markdown_().split("\n")]
    assert {len(line) for line in cells} == {4}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"rows must be a list of dictionaries .* got \[\]"),
        ([{"a": 1}, {"b": 1}], r"must have the columns \['a'\]; one has \['b'\]"),
        ([{"a": 1}, {"a": 1, "b": 2}], r"must have the columns \['a'\]; one has \['a', 'b'\]"),
        ([{}], "none of them empty"),
        ([1, 2], r"rows must be a list of dictionaries .* got \[1, 2\]"),
        ("ab", "rows must be a list of dictionaries .* got 'ab'"),
        (None, "rows must be a list of dictionaries .* got None"),
        (np.ones((2, 2)), r"rows must be a list of dictionaries .* got ndarray of shape \(2, 2\)"),
        ([{1: 2}], "columns must be a name or a list of names"),
    ],
)
def test_rows_that_make_no_table_are_rejected(rows, message):
    with pytest.raises(ValueError, match=message):
        Table(rows)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (5, [])])
def test_lines_are_printed_at_the_requested_epochs(capsys, every, epochs):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history = model.fit(np.ones((2, 1)), np.ones(2), epochs=4, verbose=0, callbacks=[Lines(every)]).history
    assert capsys.readouterr().out == "".join(f"epoch {e}: loss {history['loss'][e - 1]:.3f}\n" for e in epochs)


def test_lines_need_an_interval_of_at_least_one_epoch():
    with pytest.raises(ValueError, match="every must be an integer of at least 1; got 0"):
        Lines(0)


def test_a_table_is_shown_as_its_text_where_markdown_is_not():
    rows = Table([{"learner": "chance", "accuracy": 0.2}])
    assert repr(rows) == str(rows)

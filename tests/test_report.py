"""Reports: intervals by the book, tables and figures that read well, and no number counted that should not be."""

import itertools
import re

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool, Episode, FewShot, MetaLearner, Score, Sinusoids, evaluate
from meta_keras.report import PALETTE, Lines, Table, diagram, learning_curves, mean_and_interval, show_episode, style
from meta_keras.rules import Prototypes

STUDENT = {2: 12.706, 5: 2.776, 30: 2.045, 600: 1.964}

# What a dichromat sees of linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
SIGHTS = {
    "all colours": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
LINEAR_TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = np.array([0.9505, 1.0, 1.089])


def tasks_of(ways=4, shots=1, queries=3, meta_batch=4):
    examples = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    return FewShot(ClassPool(examples, np.arange(80) // 8), ways, shots, queries, meta_batch)


def episode_of(support_y, query_y, side=5, channels=1):
    def pictures(labels):
        return np.random.default_rng(1).random((1, len(labels), side, side, channels)).astype(np.float32)

    parts = (pictures(support_y), np.array([support_y]), pictures(query_y), np.array([query_y]))
    return Episode(*map(tf.constant, parts))


def constant(*shape, value=0.0):
    return lambda support_x, support_y, query_x: np.full(shape, value)


def as_seen(colour, sight):
    """A colour's CIE lightness, a* and b*, to an eye of this kind."""
    coded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1)
    x, y, z = np.cbrt(np.maximum(LINEAR_TO_XYZ @ seen / WHITE, 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def settings_now():
    return {name: repr(value) for name, value in plt.rcParams.items()}


def pictures_in(figure):
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize(("count", "t"), STUDENT.items())
def test_the_interval_is_students(count, t):
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
        ([], "at least 2 values; 0 given"),
        ([1.0], "at least 2 values; 1 given"),
        ([1.0, np.nan, np.inf], "2 of the 3 values are nan or infinite"),
    ],
)
def test_too_few_or_broken_values_have_no_interval(values, message):
    with pytest.raises(ValueError, match=message):
        mean_and_interval(values)


def test_a_guess_scores_chance_with_an_interval_that_holds_it():
    generator = np.random.default_rng(0)
    score = evaluate(lambda x, y, queries: generator.normal(size=(len(queries), 4)), tasks_of(), 400)
    assert abs(score.mean - 0.25) < score.interval < 0.02
    assert (score.mean, score.interval) == pytest.approx(mean_and_interval(score.values))
    assert score.metric == "accuracy" and set(score.values * 12 % 1) == {0.0}


def test_perfect_answers_score_one():
    pool = ClassPool(np.repeat(np.eye(6, dtype=np.float32), 4, axis=0), np.repeat(np.arange(6), 4))

    def nearest(support_x, support_y, query_x):
        chosen = tf.gather(support_y, tf.argmax(tf.matmul(query_x, support_x, transpose_b=True), axis=-1))
        return tf.one_hot(chosen, 5)

    score = evaluate(nearest, FewShot(pool, 5, 1, 3), 6)
    assert (score.mean, score.interval) == (1.0, 0.0)


@pytest.mark.parametrize("episodes", [2, 5, 8])
def test_as_many_tasks_are_counted_as_were_asked_for(episodes):
    score = evaluate(constant(12, 4), tasks_of(meta_batch=4), episodes)
    assert len(score.values) == episodes


def test_a_learner_and_a_function_that_does_the_same_agree():
    network = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    learner = MetaLearner(network=network, rule=Prototypes())

    def by_hand(support_x, support_y, query_x):
        prototypes = tf.math.segment_mean(tf.gather(network(support_x), tf.argsort(support_y)), tf.sort(support_y))
        return -tf.reduce_sum((network(query_x)[:, None] - prototypes) ** 2, axis=-1)

    one, other = (evaluate(way, tasks_of(shots=2), 10) for way in (learner, by_hand))
    np.testing.assert_array_equal(one.values, other.values)
    assert len(set(one.values)) > 1


def test_regressions_are_scored_by_their_mean_squared_error():
    tasks = Sinusoids(shots=2, queries=5, meta_batch=3)
    score = evaluate(constant(5, 1, value=0.5), tasks, 3)
    wanted = np.square(next(iter(tasks)).query_y.numpy() - 0.5).mean(axis=(1, 2))
    np.testing.assert_allclose(score.values, wanted, rtol=1e-5)
    assert score.metric == "mean squared error"


def test_a_metric_of_ones_own_takes_the_answers_and_the_scores():
    def largest_label(query_y, scores):
        return tf.reduce_max(query_y) + scores.shape[1]

    score = evaluate(constant(12, 4), tasks_of(), 3, metric=largest_label)
    assert score.metric == "largest_label" and score.values.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (
            constant(12, 3),
            r"12 queries of 4 classes need scores of shape \(12, 4\); the learner's have shape \(12, 3\)",
        ),
        (constant(11, 4), r"the learner's have shape \(11, 4\)"),
        (constant(1, 4), r"the learner's have shape \(1, 4\)"),
        (constant(12), r"the learner's have shape \(12,\)"),
        (constant(12, 4, value=np.nan), "scores hold nan"),
    ],
)
def test_scores_that_do_not_answer_the_queries_are_refused(learner, message):
    with pytest.raises(ValueError, match=message):
        evaluate(learner, tasks_of(), 2)


def test_scores_of_minus_infinity_and_of_more_classes_are_allowed():
    scores = np.where(np.eye(6)[np.zeros(12, int)], 0.0, -np.inf)
    assert evaluate(lambda x, y, queries: scores, tasks_of(), 2).mean == 0.25


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (constant(5), r"Answers of shape \(5, 1\) are needed; the learner's have shape \(5,\)"),
        (constant(5, 1, value=np.nan), "2 of the 2 values are nan"),
    ],
)
def test_answers_that_do_not_fit_the_curve_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        evaluate(answer, Sinusoids(queries=5, meta_batch=2), 2)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (1, "at least 2 episodes; 1 asked for"),
        (0, "episodes is a whole number of 1 or more; 0"),
        (2.5, "episodes is a whole number of 1 or more; 2.5"),
    ],
)
def test_an_interval_needs_two_episodes_and_a_whole_number(episodes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(constant(12, 4), tasks_of(), episodes)


def test_tasks_that_end_too_soon_are_reported():
    with pytest.raises(ValueError, match="9 episodes were asked for; the dataset ended after 8"):
        evaluate(constant(12, 4), tasks_of(meta_batch=4).take(2), 9)


def test_what_holds_no_episodes_cannot_be_evaluated():
    with pytest.raises(ValueError, match="A dataset of episodes is needed"):
        evaluate(constant(12, 4), tf.data.Dataset.range(3))


def test_a_score_of_values_has_their_mean_and_interval_and_keeps_them():
    score = Score.of([0.5, 0.7, 0.6], "recall")
    assert score.metric == "recall" and (score.mean, score.interval) == mean_and_interval([0.5, 0.7, 0.6])
    np.testing.assert_array_equal(score.values, [0.5, 0.7, 0.6])
    assert str(score) == "recall 0.600 ± 0.248 (95 % interval over 3 values)"


def test_a_table_lines_up_words_to_the_left_and_numbers_to_the_right():
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
        ([], "at least one row; none were given"),
        ([{"a": 1}, {"b": 1}], r"needs the columns \['a'\]; one has \['b'\]"),
        ([{"a": 1}, {"a": 1, "b": 2}], r"needs the columns \['a'\]; one has \['a', 'b'\]"),
    ],
)
def test_rows_that_make_no_table_are_told_why(rows, message):
    with pytest.raises(ValueError, match=message):
        Table(rows)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (5, [])])
def test_lines_print_every_so_many_epochs(capsys, every, epochs):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history = model.fit(np.ones((2, 1)), np.ones(2), epochs=4, verbose=0, callbacks=[Lines(every)]).history
    assert capsys.readouterr().out == "".join(f"epoch {e}: loss {history['loss'][e - 1]:.3f}\n" for e in epochs)


def test_lines_come_every_one_epoch_or_more():
    with pytest.raises(ValueError, match="every is a whole number of 1 or more; 0 was given"):
        Lines(0)


@pytest.mark.parametrize(("shots", "shown", "channels"), [(1, 6, 1), (3, 2, 3)])
def test_an_episode_is_shown_a_row_a_class(shots, shown, channels):
    support_y, query_y = [2, 0, 1] * shots, [1, 0, 2, 2, 1, 0, 0, 1, 2]
    figure = show_episode(episode_of(support_y, query_y, channels=channels), queries=shown, title="A task")
    assert len(pictures_in(figure)) == 3 * shots + 3 * min(shown, 3)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["class 0", "class 1", "class 2"]
    assert figure.get_suptitle() == "A task"
    assert not any(axes.get_xlabel() for axes in figure.axes)


def test_every_picture_stands_in_the_row_of_its_class():
    support_y, query_y = [1, 0, 1, 0], [0, 1, 1, 0]
    episode = episode_of(support_y, query_y)
    shown = [np.asarray(axes.images[0].get_array()) for axes in pictures_in(show_episode(episode))]
    (support,), (query,) = episode.support_x.numpy(), episode.query_x.numpy()
    wanted = [support[i] for i in (1, 3, 0, 2)] + [query[i] for i in (0, 3, 1, 2)]
    np.testing.assert_array_equal(shown, np.stack(wanted)[..., 0])


def test_scores_frame_right_and_wrong_answers_apart():
    figure = show_episode(episode_of([0, 1], [0, 1, 1]), scores=np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]))
    right, other, wrong = pictures_in(figure)[2:]
    assert [axes.get_xlabel() for axes in (right, other, wrong)] == ["", "", "as 0"]
    frames = [axes.spines["left"] for axes in (right, other, wrong)]
    assert [frame.get_linestyle() in ("-", "solid") for frame in frames] == [True, True, False]
    assert frames[0].get_edgecolor() == frames[1].get_edgecolor() != frames[2].get_edgecolor()
    assert all(frame.get_visible() and frame.get_linewidth() >= 2 for frame in frames)


def test_an_episode_with_unequal_numbers_leaves_the_missing_places_empty():
    figure = show_episode(episode_of([0, 0, 0, 1], [0, 1, 1]))
    assert len(pictures_in(figure)) == 4 + 3
    assert [axes.get_visible() for axes in figure.axes] == [bool(axes.images) for axes in figure.axes]
    assert len(figure.axes) == 2 * 3 + 2 * 2


def test_any_task_of_a_batch_can_be_shown():
    one, other = (episode_of([0, 1], [0, 1], side=4) for _ in range(2))
    batch = Episode(
        *(tf.concat([a, 0.5 * b if b.dtype.is_floating else b], 0) for a, b in zip(one, other, strict=True))
    )
    first, second = (pictures_in(show_episode(batch, task=task))[0].images[0].get_array() for task in (0, 1))
    np.testing.assert_allclose(second, 0.5 * first)


def test_only_pictures_can_be_shown():
    with pytest.raises(ValueError, match=r"Only pictures can be shown.*shape \(6,\)"):
        show_episode(next(iter(tasks_of())))


def test_curves_are_labelled_at_their_ends_and_the_level_is_named():
    axes = learning_curves({"a": [3, 2, 1], "b": [4, 5]}, ylabel="error", level=("chance", 0.2))
    notes = {note.get_text(): note.xy for note in axes.texts}
    assert notes == {"a": (3, 1), "b": (2, 5), "chance": (1, 0.2)}
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[3, 2, 1], [4, 5]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "error")
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert [line.get_color() for line in axes.lines[:2]] == list(PALETTE[:2])


def test_curves_can_join_axes_that_are_there():
    there = plt.figure().add_subplot()
    assert learning_curves({"a": [1, 2]}, axes=there) is there and len(there.lines) == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: show_episode(episode_of([0, 1], [0, 1])),
        lambda: learning_curves({"a": [1, 2]}),
        lambda: diagram({"a": (0, 0, "task"), "b": (1, 1, "answer")}, [("a", "b", "learn")]),
    ],
    ids=["episode", "curves", "diagram"],
)
def test_drawing_leaves_matplotlibs_settings_alone(draw):
    before = settings_now()
    draw()
    assert settings_now() == before


def test_a_diagram_holds_its_boxes_and_the_words_of_its_arrows():
    boxes = {"a": (0.1, 0.5, "task"), "b": (0.9, 0.5, "answer")}
    (axes,) = diagram(boxes, [("a", "b", "learn"), ("b", "a", "")], marked=["b"]).axes
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["task", "answer", "learn"]
    fills = [text.get_bbox_patch().get_facecolor() for text in axes.texts[:2]]
    assert fills[0] != fills[1]


def test_an_arrow_to_a_box_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="join boxes a; there is no 'c'"):
        diagram({"a": (0, 0, "task")}, [("a", "c", "")])


def test_the_house_style_can_be_put_on_for_good():
    with plt.rc_context():
        style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(PALETTE)


def test_the_palette_climbs_from_dark_to_light_in_clear_steps():
    lightness = [as_seen(colour, "all colours")[0] for colour in PALETTE]
    assert np.diff(lightness).min() >= 10


@pytest.mark.parametrize("sight", SIGHTS)
def test_no_two_colours_of_the_palette_look_alike_to_any_eye(sight):
    seen = [as_seen(colour, sight) for colour in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 15


def test_a_table_is_shown_as_its_text_where_markdown_is_not():
    rows = Table([{"learner": "chance", "accuracy": 0.2}])
    assert repr(rows) == str(rows)

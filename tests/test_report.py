"""Reports: tables, figures and diagrams show what they were given, and reject what they cannot show."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf

from meta_keras import Episode
from meta_keras.report import PALETTE, diagram, learning_curves, show_episode, style

# What a dichromat sees of linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
SIGHTS = {
    "all colors": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
LINEAR_TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = np.array([0.9505, 1.0, 1.089])


def episode_of(support_y, query_y, side=5, channels=1):
    def images(labels):
        return np.random.default_rng(1).random((1, len(labels), side, side, channels)).astype(np.float32)

    parts = (images(support_y), np.array([support_y]), images(query_y), np.array([query_y]))
    return Episode(*map(tf.constant, parts))


def as_seen(color, sight):
    """A color's CIE lightness, a* and b*, as seen with this type of color vision."""
    coded = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1)
    x, y, z = np.cbrt(np.maximum(LINEAR_TO_XYZ @ seen / WHITE, 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def settings_now():
    return {name: repr(value) for name, value in plt.rcParams.items()}


def images_in(figure):
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize(("shots", "shown", "channels"), [(1, 6, 1), (3, 2, 3)])
def test_an_episode_is_shown_with_one_row_per_class(shots, shown, channels):
    support_y, query_y = [2, 0, 1] * shots, [1, 0, 2, 2, 1, 0, 0, 1, 2]
    figure = show_episode(episode_of(support_y, query_y, channels=channels), queries=shown, title="A task")
    assert len(images_in(figure)) == 3 * shots + 3 * min(shown, 3)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["class 0", "class 1", "class 2"]
    assert figure.get_suptitle() == "A task"
    assert not any(axes.get_xlabel() for axes in figure.axes)


def test_every_image_is_in_the_row_of_its_class():
    support_y, query_y = [1, 0, 1, 0], [0, 1, 1, 0]
    episode = episode_of(support_y, query_y)
    shown = [np.asarray(axes.images[0].get_array()) for axes in images_in(show_episode(episode))]
    (support,), (query,) = episode.support_x.numpy(), episode.query_x.numpy()
    wanted = [support[i] for i in (1, 3, 0, 2)] + [query[i] for i in (0, 3, 1, 2)]
    np.testing.assert_array_equal(shown, np.stack(wanted)[..., 0])


def test_frames_distinguish_correct_and_misclassified_queries():
    figure = show_episode(episode_of([0, 1], [0, 1, 1]), scores=np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]))
    correct, other, misclassified = images_in(figure)[2:]
    assert [axes.get_xlabel() for axes in (correct, other, misclassified)] == ["", "", "as 0"]
    frames = [axes.spines["left"] for axes in (correct, other, misclassified)]
    assert [frame.get_linestyle() in ("-", "solid") for frame in frames] == [True, True, False]
    assert frames[0].get_edgecolor() == frames[1].get_edgecolor() != frames[2].get_edgecolor()
    assert all(frame.get_visible() and frame.get_linewidth() >= 2 for frame in frames)


def test_classes_with_fewer_examples_leave_their_cells_empty():
    figure = show_episode(episode_of([0, 0, 0, 1], [0, 1, 1]))
    assert len(images_in(figure)) == 4 + 3
    assert [axes.get_visible() for axes in figure.axes] == [bool(axes.images) for axes in figure.axes]
    assert len(figure.axes) == 2 * 3 + 2 * 2


def test_any_task_of_a_batch_can_be_shown():
    one, other = (episode_of([0, 1], [0, 1], side=4) for _ in range(2))
    batch = Episode(
        *(tf.concat([a, 0.5 * b if b.dtype.is_floating else b], 0) for a, b in zip(one, other, strict=True))
    )
    first, second = (images_in(show_episode(batch, task=task))[0].images[0].get_array() for task in (0, 1))
    np.testing.assert_allclose(second, 0.5 * first)


def test_only_images_can_be_shown():
    with pytest.raises(ValueError, match=r"Only images can be shown.*shape \(1, 2, 6\)"):
        show_episode(
            Episode(tf.ones((1, 2, 6)), tf.zeros((1, 2), tf.int32), tf.ones((1, 3, 6)), tf.zeros((1, 3), tf.int32))
        )


def test_curves_are_labeled_at_their_ends_and_the_level_is_named():
    axes = learning_curves({"a": [3, 2, 1], "b": [4, 5]}, ylabel="error", level=("chance", 0.2))
    notes = {note.get_text(): note.xy for note in axes.texts}
    assert notes == {"a": (3, 1), "b": (2, 5), "chance": (1, 0.2)}
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[3, 2, 1], [4, 5]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "error")
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert [line.get_color() for line in axes.lines[:2]] == list(PALETTE[:2])


def test_curves_can_be_added_to_existing_axes():
    existing = plt.figure().add_subplot()
    assert learning_curves({"a": [1, 2]}, axes=existing) is existing and len(existing.lines) == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: show_episode(episode_of([0, 1], [0, 1])),
        lambda: learning_curves({"a": [1, 2]}),
        lambda: diagram({"a": (0, 0, "task"), "b": (1, 1, "answer")}, [("a", "b", "learn")]),
    ],
    ids=["episode", "curves", "diagram"],
)
def test_drawing_does_not_change_the_settings_of_matplotlib(draw):
    before = settings_now()
    draw()
    assert settings_now() == before


def test_a_diagram_has_its_boxes_and_the_labels_of_its_arrows():
    boxes = {"a": (0.1, 0.5, "task"), "b": (0.9, 0.5, "answer")}
    (axes,) = diagram(boxes, [("a", "b", "learn"), ("b", "a", "")], marked=["b"]).axes
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["task", "answer", "learn"]
    fills = [text.get_bbox_patch().get_facecolor() for text in axes.texts[:2]]
    assert fills[0] != fills[1]


def test_an_arrow_to_an_unknown_box_is_rejected():
    with pytest.raises(ValueError, match="connect the boxes a; there is no box 'c'"):
        diagram({"a": (0, 0, "task")}, [("a", "c", "")])


def test_the_style_can_be_set_for_all_figures():
    with plt.rc_context():
        style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(PALETTE)


def test_the_palette_goes_from_dark_to_light_in_clear_steps():
    lightness = [as_seen(color, "all colors")[0] for color in PALETTE]
    assert np.diff(lightness).min() >= 10


@pytest.mark.parametrize("sight", SIGHTS)
def test_no_two_colors_of_the_palette_look_alike_to_any_reader(sight):
    seen = [as_seen(color, sight) for color in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 15


def test_raw_pixels_are_shown_as_the_scaled_ones_are():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 5, 5, 1)).astype(np.uint8)
    labels = tf.constant([[0, 1]])
    figures = [show_episode(Episode(x, labels, x, labels)) for x in (tf.constant(pixels), tf.constant(pixels / 255.0))]
    raw, scaled = ([axes.images[0].get_array() for axes in images_in(figure)] for figure in figures)
    np.testing.assert_allclose(raw, scaled, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": 1}, "task must be less than the 1 tasks of the batch; got 1"),
        ({"task": -1}, "task must be an integer of at least 0; got -1"),
        ({"task": "x"}, "task must be an integer of at least 0; got 'x'"),
        ({"queries": 0}, "queries must be an integer of at least 1; got 0"),
        ({"title": 3}, "title must be a string; got 3"),
        ({"scores": np.ones((2, 2))}, r"scores must be logits .* the 3 queries .* got ndarray of shape \(2, 2\)"),
        ({"scores": np.ones(3)}, r"scores must be logits .* got ndarray of shape \(3,\)"),
        ({"scores": np.full((3, 2), np.nan)}, "without NaN"),
        ({"scores": ["a", "b", "c"]}, "scores must be an array of numbers"),
        ({"episode": None}, "episode must be a batch of tasks.*got None"),
        ({"episode": np.ones(4)}, "episode must be a batch of tasks"),
        (
            {"episode": episode_of([0, 1], [0, 1])._replace(support_y=tf.constant([[0.5, 1.0]]))},
            "integer labels from 0",
        ),
        ({"episode": episode_of([0, 1], [0, 1])._replace(query_y=tf.constant([[-1, 1]]))}, "integer labels from 0"),
    ],
)
def test_an_episode_that_cannot_be_shown_is_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        show_episode(**{"episode": episode_of([0, 1], [0, 1, 1])} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curves": [1, 2]}, r"curves must be a dictionary; got \[1, 2\]"),
        ({"curves": {}}, "at least one curve"),
        ({"curves": {"a": 3}}, r"curves\['a'\] must be a list of numbers"),
        ({"curves": {"a": []}}, r"curves\['a'\] must be a list of numbers"),
        ({"curves": {"a": ["x"]}}, "a must be an array of numbers"),
        ({"curves": {1: [1.0]}}, "name must be a string; got 1"),
        ({"ylabel": 3}, "ylabel must be a string; got 3"),
        ({"level": 0.2}, "level must be a name and a number"),
        ({"level": ("chance", "x")}, "level must be a finite number; got 'x'"),
        ({"axes": "x"}, "axes must be the axes of a matplotlib figure; got 'x'"),
        ({"axes": np.ones(2)}, "axes must be the axes of a matplotlib figure"),
    ],
)
def test_curves_that_cannot_be_drawn_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_curves(**{"curves": {"a": [1.0, 2.0]}} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [1]}, r"boxes must be a dictionary; got \[1\]"),
        ({"boxes": {"a": (0, 0)}}, r"boxes\['a'\] must be \(x, y, text\).*got \(0, 0\)"),
        ({"boxes": {"a": (0, float("nan"), "x")}}, "y must be a finite number; got nan"),
        ({"boxes": {"a": (0, 0, 3)}}, "text must be a string; got 3"),
        ({"arrows": "ab"}, r"arrows must be a list of \(from, to, label\); got 'ab'"),
        ({"arrows": [("a", "a")]}, r"arrows must be a list of \(from, to, label\)"),
        ({"arrows": [("a", "a", 3)]}, "label must be a string; got 3"),
        ({"marked": ["c"]}, r"marked must be a list of names from \['a'\]; got \['c'\]"),
        ({"marked": "a"}, "marked must be a list of names"),
        ({"size": 3}, r"size must be \(width, height\) in inches; got 3"),
        ({"size": (0, 3)}, "width must be a positive finite number; got 0"),
    ],
)
def test_diagrams_that_cannot_be_drawn_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        diagram(**{"boxes": {"a": (0, 0, "task")}, "arrows": []} | arguments)

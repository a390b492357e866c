"""Zero-shot classification: scores from descriptions, calibration, and the harmonic mean of two accuracies."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.networks import conv4, mlp
from meta_keras.transfer import ZeroShot, calibrated, describe_names, harmonic_mean

# Four binary attributes give sixteen classes, and every attribute is a direction in the inputs.
SIGNS = np.array([[number >> bit & 1 for bit in range(4)] for number in range(16)], "float32")
SEEN, UNSEEN = [0, 1, 2, 4, 8, 3, 5, 10, 12, 7, 13, 15], [6, 9, 11, 14]


def signed_examples(classes, each=30, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(classes)), each)
    mixing = np.random.default_rng(99).normal(size=(4, 12))
    x = (2 * SIGNS[classes][labels] - 1) @ mixing + 0.3 * rng.normal(size=(len(labels), 12))
    return x.astype("float32"), labels


def untrained(descriptions):
    return ZeroShot(mlp(16, input_shape=(12,), hidden=(16,)), descriptions)


def fresh(descriptions):
    learner = untrained(descriptions)
    learner.compile(keras.optimizers.SGD(0.1), steps_per_execution=20)
    return learner


def train(learner):
    x, y = signed_examples(SEEN)
    learner.fit(np.tile(x, (20, 1)), np.tile(y, 20), batch_size=36, verbose=0)
    return learner


@pytest.fixture(scope="module")
def learner():
    keras.utils.set_random_seed(0)
    return train(fresh(SIGNS[SEEN]))


@pytest.mark.parametrize("batch_size", [4, 256])
def test_a_score_is_the_product_of_projection_and_description(learner, batch_size):
    x, _ = signed_examples(UNSEEN, each=2)
    kernel, bias = learner.projection.get_weights()
    expected = (learner.encoder(x).numpy() @ kernel + bias) @ SIGNS[UNSEEN].T
    np.testing.assert_allclose(learner.scores(x, SIGNS[UNSEEN], batch_size=batch_size), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(learner.classify(x, SIGNS[UNSEEN]), expected.argmax(axis=1))


def test_called_it_scores_the_seen_classes(learner):
    x, y = signed_examples(SEEN, each=2, seed=1)
    np.testing.assert_allclose(learner(x), learner.scores(x, SIGNS[SEEN]), rtol=1e-4, atol=1e-4)
    assert (np.argmax(learner(x), axis=1) == y).mean() > 0.9


def test_classes_never_seen_are_recognised_by_their_descriptions(learner):
    x, y = signed_examples(UNSEEN)
    assert (learner.classify(x, SIGNS[UNSEEN]) == y).mean() > 0.8


def test_swapped_descriptions_swap_the_answers(learner):
    x, _ = signed_examples(UNSEEN)
    turned = np.roll(np.arange(4), 1)
    answers = learner.classify(x, SIGNS[UNSEEN])
    np.testing.assert_array_equal(turned[learner.classify(x, SIGNS[UNSEEN][turned])], answers)


def test_descriptions_shuffled_among_the_classes_tell_nothing():
    x, y = signed_examples(UNSEEN)
    right, learner = [], fresh(SIGNS[SEEN])
    start = learner.get_weights()
    for seed in range(8):
        mixed = SIGNS[np.random.default_rng(seed).permutation(16)]
        learner.set_weights(start)
        learner.descriptions.assign(mixed[SEEN])
        right.append((train(learner).classify(x, mixed[UNSEEN]) == y).mean())
    assert np.mean(right) < 0.45


def test_a_growing_penalty_moves_answers_from_the_seen_classes_to_the_unseen(learner):
    everything, reached = SIGNS[SEEN + UNSEEN], []
    (x, y), (seen_x, seen_y) = signed_examples(UNSEEN), signed_examples(SEEN, seed=1)
    for penalty in (-9.0, 0.0, 1.0, 99.0):
        found, seen_found = (
            calibrated(learner.scores(rows, everything), range(len(SEEN)), penalty).argmax(axis=1)
            for rows in (x, seen_x)
        )
        reached.append(((seen_found == seen_y).mean(), (found == y + len(SEEN)).mean()))
    seen, unseen = zip(*reached, strict=True)
    assert list(seen) == sorted(seen, reverse=True) and list(unseen) == sorted(unseen)
    assert unseen[0] < 0.3 < 0.8 < unseen[1] and seen[-1] == 0
    assert max(harmonic_mean(*pair) for pair in reached[1:3]) > 0.9 > 0.5 > harmonic_mean(*reached[0])


@pytest.mark.eagerly
def test_the_encoder_is_trained_too_and_the_descriptions_are_not():
    learner = ZeroShot(mlp(4, input_shape=(12,), hidden=(5,)), SIGNS[SEEN])
    before = [weight.numpy() for weight in learner.trainable_variables]
    learner.compile()
    learner.fit(*signed_examples(SEEN, each=3), verbose=0)
    assert len(before) == 6
    assert all(not np.array_equal(a, b.numpy()) for a, b in zip(before, learner.trainable_variables, strict=True))
    np.testing.assert_array_equal(learner.descriptions.numpy(), SIGNS[SEEN])


def test_assigned_descriptions_are_used_without_compiling_anew(learner):
    x, _ = signed_examples(UNSEEN, each=2)
    other = ZeroShot(learner.encoder, np.zeros((4, 4)))
    other.projection.set_weights(learner.projection.get_weights())
    other.compile()
    assert (other.predict(x, verbose=0) == 0).all()
    other.descriptions.assign(SIGNS[UNSEEN])
    np.testing.assert_allclose(other.predict(x, verbose=0), learner.scores(x, SIGNS[UNSEEN]), rtol=1e-4, atol=1e-4)


def test_a_learner_is_saved_with_its_descriptions(learner, tmp_path):
    x, _ = signed_examples(UNSEEN, each=2)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(loaded.descriptions.numpy(), SIGNS[SEEN])
    np.testing.assert_allclose(loaded.scores(x, SIGNS), learner.scores(x, SIGNS), rtol=1e-6)
    loaded.fit(*signed_examples(SEEN, each=2), verbose=0)


def test_a_learner_that_was_saved_goes_on_where_it_was(tmp_path):
    x, y = signed_examples(SEEN, each=2)
    learner = untrained(SIGNS[SEEN])
    learner.compile(keras.optimizers.Adam(0.1))
    learner.fit(x, y, verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    for model in (learner, loaded):
        model.fit(x, y, shuffle=False, verbose=0)
    np.testing.assert_allclose(loaded(x), learner(x), rtol=1e-5, atol=1e-5)


def test_a_learner_made_anew_from_its_config_knows_the_classes(learner):
    again = ZeroShot.from_config(learner.get_config())
    np.testing.assert_array_equal(again.descriptions.numpy(), SIGNS[SEEN])
    assert again.encoder is not learner.encoder and again.encoder.output_shape == (None, 16)


@pytest.mark.eagerly
def test_scoring_does_not_move_batch_normalisation_and_fitting_does():
    learner = ZeroShot(conv4(filters=2), np.eye(3))
    before = learner.get_weights()
    learner.scores(np.ones((4, 28, 28, 1)), np.eye(3))
    assert all(np.array_equal(a, b) for a, b in zip(before, learner.get_weights(), strict=True))
    start = [weight.numpy() for weight in learner.encoder.non_trainable_variables]
    learner.compile()
    learner.fit(np.ones((4, 28, 28, 1)), np.arange(4) % 3, verbose=0)
    after = [weight.numpy() for weight in learner.encoder.non_trainable_variables]
    assert start and not any(np.array_equal(a, b) for a, b in zip(start, after, strict=True))


@pytest.mark.parametrize(
    ("encoder", "descriptions", "message"),
    [
        (mlp(4), [1, 0], r"descriptions must be finite numbers of shape \(classes, d\); got the shape \(2,\)"),
        (mlp(4), [[1, 0]], "descriptions must be those of at least two classes; got 1"),
        (keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)]), [[1], [0]], r"\(None, 6, 6, 2\)"),
        (keras.Sequential([keras.layers.Dense(2)]), [[1], [0]], "encoder must have its weights"),
    ],
)
def test_a_learner_says_what_it_needs(encoder, descriptions, message):
    with pytest.raises(ValueError, match=message):
        ZeroShot(encoder, descriptions)


@pytest.mark.parametrize("shape", [(2, 5), (4,)])
def test_descriptions_of_another_shape_are_refused(learner, shape):
    message = rf"descriptions must be .* \(classes, 4\); got the shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        learner.scores(np.ones((1, 12)), np.ones(shape))


# Compiling and fitting


def test_without_a_loss_it_is_cross_entropy_of_the_scores_with_accuracy_beside_it():
    learner = untrained(SIGNS[SEEN])
    learner.compile()
    x, y = signed_examples(SEEN, each=2)
    powers = np.exp(learner(x).numpy())
    chances = powers[np.arange(len(y)), y] / powers.sum(axis=1)
    found = learner.evaluate(x, y, verbose=0, return_dict=True)
    assert found == pytest.approx({"loss": -np.log(chances).mean(), "accuracy": (powers.argmax(axis=1) == y).mean()})


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"metrics": []}, {"loss"}),
        ({"metrics": ["sparse_top_k_categorical_accuracy"]}, {"loss", "sparse_top_k_categorical_accuracy"}),
        ({"loss": "mse"}, {"loss"}),
        ({"loss": "mse", "metrics": ["mae"]}, {"loss", "mae"}),
    ],
)
def test_a_loss_and_metrics_that_are_given_are_taken_as_they_are(options, reported):
    learner, optimizer = untrained(SIGNS[SEEN]), keras.optimizers.SGD(0.25)
    learner.compile(optimizer, **options, steps_per_execution=7)
    assert learner.optimizer is optimizer and learner.steps_per_execution == 7
    x, y = signed_examples(SEEN, each=2)
    wanted = np.eye(len(SEEN))[y]
    found = learner.evaluate(x, wanted if "loss" in options else y, verbose=0, return_dict=True)
    assert set(found) == reported
    if "loss" in options:
        assert found["loss"] == pytest.approx(np.mean((learner(x) - wanted) ** 2), rel=1e-5)


def test_a_dataset_is_taken_in_its_own_order_and_arrays_as_keras_would(monkeypatch):
    handed_on = []
    monkeypatch.setattr(keras.Model, "fit", lambda self, x, y, **options: handed_on.append(options))
    learner, (x, y) = untrained(SIGNS[SEEN]), signed_examples(SEEN, each=2)
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    learner.fit(pairs)
    learner.fit(pairs, shuffle=True)
    learner.fit(x, y)
    assert handed_on == [{"shuffle": False}, {"shuffle": True}, {}]


# Calibration, the mean of two accuracies, names


def test_calibrating_takes_from_the_seen_columns_alone_and_leaves_the_scores_given():
    scores = np.random.default_rng(0).normal(size=(5, 4))
    kept = scores.copy()
    np.testing.assert_allclose(calibrated(scores, [0, 2], 1.5), kept - 1.5 * np.array([1, 0, 1, 0]))
    np.testing.assert_array_equal(scores, kept)
    assert calibrated(np.array([[3, 1]]), [0], 0.5)[0, 0] == 2.5, "whole numbers are not rounded"


@pytest.mark.parametrize("pair", [(1.0, 1.0), (0.5, 0.25), (0.9, 0.0), (0.0, 0.0), (1.0, 0.01)])
def test_the_harmonic_mean_is_near_the_smaller(pair):
    found = harmonic_mean(*pair)
    expected = 2 / (1 / pair[0] + 1 / pair[1]) if min(pair) else 0
    assert found == pytest.approx(expected) and min(pair) <= found <= 2 * min(pair)


@pytest.mark.parametrize("pair", [(50, 0.5), (0.5, -0.1)])
def test_percentages_are_refused(pair):
    with pytest.raises(ValueError, match="accuracy must be a number from 0 to 1"):
        harmonic_mean(*pair)


def test_names_are_counted_in_words_or_letters():
    words, vocabulary = describe_names(["Ankle boot", "boot boot", "BAG"])
    assert vocabulary == ["ankle", "bag", "boot"] and words.dtype == np.float32
    np.testing.assert_array_equal(words, [[1, 0, 1], [0, 0, 2], [0, 1, 0]])
    letters, vocabulary = describe_names(["shii a", "Sa"], by="letters")
    assert vocabulary == ["a", "h", "i", "s"]
    np.testing.assert_array_equal(letters, [[1, 1, 2, 1], [1, 0, 0, 1]])


@pytest.mark.parametrize(
    ("names", "by", "message"), [(["a"], "sounds", "'words', 'letters'; got 'sounds'"), ([" ", ""], "words", "empty")]
)
def test_names_that_say_nothing_are_refused(names, by, message):
    with pytest.raises(ValueError, match=message):
        describe_names(names, by=by)


def test_no_inputs_have_no_scores():
    with pytest.raises(ValueError, match="x must be an array with one row per example"):
        fresh(SIGNS[SEEN]).scores(np.empty((0, 12)), SIGNS[UNSEEN])


def test_one_name_is_not_a_list_of_its_letters():
    with pytest.raises(ValueError, match="names must be a list of names; got the single name 'boot'"):
        describe_names("boot")


def test_an_encoder_has_one_output():
    x = keras.Input((2,))
    with pytest.raises(ValueError, match=r"got \[\(None, 3\), \(None, 3\)\]"):
        ZeroShot(keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)]), np.eye(3))


def test_pixels_are_refused_unless_the_encoder_scales_them():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3), "uint8")
    learner = ZeroShot(mlp(4, input_shape=(3,)), np.eye(2))
    with pytest.raises(ValueError, match="x must be floats: these are pixels"):
        learner(pixels)
    with pytest.raises(ValueError, match="x must be floats: these are pixels"):
        learner.scores(pixels, np.eye(2))
    scaling = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(1 / 255), mlp(4, input_shape=(3,))])
    ZeroShot(scaling, np.eye(2)).scores(pixels, np.eye(2))

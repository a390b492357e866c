"""The few-shot protocol: features are frozen, tasks are the same for all, and useless features score chance."""

import keras
import numpy as np
import pytest

import meta_keras as mk
from meta_keras.unsupervised import few_shot_score


def pool(classes=8, each=12, seed=0):
    """Points in two dimensions: the class decides the first, and the second is noise on a larger scale."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    x = np.stack([labels + 0.05 * rng.normal(size=len(labels)), 30 * rng.normal(size=len(labels))], axis=1)
    return mk.ClassPool.from_arrays(x.astype("float32"), labels, groupings={"half": ["a"] * 4 + ["b"] * 4})


def test_good_features_are_told_from_bad_ones_and_constant_ones_score_chance():
    scores = [
        few_shot_score(encode, pool(), ways=4, episodes=100).mean
        for encode in (lambda x: x[:, :1], lambda x: x, lambda x: x[:, 1:], lambda x: 0 * x)
    ]
    assert scores[0] > 0.98 and scores[0] > scores[1] > 0.25 and scores[3] == pytest.approx(0.25)
    assert scores[2] == pytest.approx(0.25, abs=0.1)


def test_it_is_the_rule_of_prototypes_on_tasks_of_features():
    network = mk.networks.mlp(3, input_shape=(2,), hidden=())
    learner = mk.MetaLearner(network=network, rule=mk.rules.Prototypes())
    tasks = mk.FewShot(pool(), ways=4, shots=2, queries=5, meta_batch=20, seed=7)
    expected = mk.evaluate(learner, tasks, 60)
    found = few_shot_score(lambda x: network(x), pool(), ways=4, shots=2, seed=7, episodes=60)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


@pytest.mark.slow
def test_the_images_may_be_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    for kind in range(3):
        for number in range(4):
            path = tmp_path / f"class {kind}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            keras.utils.save_img(path, rng.integers(60 * kind, 60 * kind + 40, (4, 4, 1)), scale=False)
    scores = [
        few_shot_score(
            lambda x: x.reshape(len(x), -1),
            mk.ClassPool.from_folder(tmp_path, color_mode="grayscale", in_memory=in_memory),
            ways=3,
            queries=2,
            episodes=10,
        ).values
        for in_memory in (False, True)
    ]
    np.testing.assert_array_equal(*scores)


def test_the_tasks_depend_on_the_seed_only():
    scores = [few_shot_score(lambda x: x, pool(), ways=4, seed=seed, episodes=40).values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_centered_features_have_the_mean_of_other_inputs_subtracted_and_length_one():
    """Two directions around a far point: without centering, all features of length 1 would be the same."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    length = rng.uniform(1, 50, size=(40, 1))
    x = (100 + length * np.where(labels[:, None] == 0, [1.0, 0.2], [0.2, 1.0])).astype("float32")
    two = mk.ClassPool.from_arrays(x, labels)
    options = {"ways": 2, "episodes": 100}
    centered = few_shot_score(lambda x: x, two, center=np.full((5, 2), 100, "float32"), **options).mean
    assert centered == 1.0 > few_shot_score(lambda x: x, two, **options).mean + 0.1


def test_tasks_can_be_drawn_within_groups():
    def half(x):
        return (x[:, :1] > 3.5).astype("float32")

    assert few_shot_score(half, pool(), ways=4, within="half", episodes=40).mean == pytest.approx(0.25)
    assert few_shot_score(half, pool(), ways=4, episodes=40).mean > 0.3


def test_images_are_given_as_in_tasks():
    letters = mk.load("glyphs").split("test").select(range(6))
    seen = []

    def encode(x):
        seen.append((x.dtype.name, float(x.max())))
        return x.reshape(len(x), -1)

    few_shot_score(encode, letters, episodes=20)
    assert seen == [("float32", 1.0)]


def test_the_inputs_whose_mean_is_subtracted_are_scaled_as_those_of_the_pool():
    letters = mk.load("glyphs").split("test").select(range(6))
    seen = []

    def encode(x):
        seen.append(float(x.max()))
        return x.reshape(len(x), -1)

    raw, scaled = (letters.arrays(scaled=scaled)[0] for scaled in (False, True))
    scores = [few_shot_score(encode, letters, episodes=20, center=center).values for center in (raw, scaled)]
    assert raw.dtype == np.uint8 and set(seen) == {1.0}
    np.testing.assert_array_equal(*scores)
    for center, message in ((scaled * 255, "center are float images"), (scaled * np.nan, "center must be finite")):
        with pytest.raises(ValueError, match=message):
            few_shot_score(encode, letters, center=center)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(96, width\) for 96 inputs; got the shape \(96, 2, 1\)"):
        few_shot_score(lambda x: x[:, :, None], pool())
    with pytest.raises(ValueError, match="encode must be a function"):
        few_shot_score(pool(), pool())

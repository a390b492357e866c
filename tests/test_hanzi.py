"""How data/make/hanzi.py reduces drawings of characters; it needs fonts, which tests do not."""

import numpy as np
import pytest
from hanzi import LONGER_SIDE, SIZE, characters, means, reduced


@pytest.mark.parametrize("shape", [(180, 171), (41, 180), (26, 26), (199, 200), (40, 150)])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotated_drawing_becomes_exactly_the_rotated_image(shape, turns):
    ink = np.zeros((400, 400))
    ink[50 : 50 + shape[0], 90 : 90 + shape[1]] = np.random.default_rng(0).integers(256, size=shape) / 255
    image = reduced(ink)
    assert image.shape == (SIZE, SIZE) and 0 < image.mean() < 1
    np.testing.assert_array_equal(reduced(np.rot90(ink, turns)), np.rot90(image, turns))


def test_pixels_are_averaged_in_the_middle_of_the_longer_side():
    np.testing.assert_allclose(means(LONGER_SIDE, LONGER_SIDE), np.eye(LONGER_SIDE), atol=1e-9)
    np.testing.assert_allclose(means(39, 39).sum(axis=1), 1)
    covered = means(1, 2 * LONGER_SIDE).sum(axis=1)  # half the pixel is in each of two pieces that are two pixels long
    np.testing.assert_allclose(covered[12:14], 0.25)
    assert covered.sum() == pytest.approx(0.5)


def test_the_first_level_of_gb_2312_is_in_the_order_of_pronunciation():
    names = characters()
    assert (len(names), names[0], names[-1]) == (3755, "啊", "座") and len(set(names)) == 3755

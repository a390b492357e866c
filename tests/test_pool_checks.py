"""What a pool accepts: everything else is rejected with a message that names it."""

import numpy as np
import pytest

from meta_keras import ClassPool


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        ((None, None), {}, "examples must be an array or a list with one entry per example; got None"),
        (([1.0, 2.0], None), {}, "labels must be an array or a list with one entry per example; got None"),
        (({"a": 1}, [0]), {}, "examples must be an array or a list"),
        (([[1], [1, 2]], [0, 1]), {}, "examples cannot be made into one array, because they differ in shape or kind"),
        (([[1], [2]], [[0], [1, 2]]), {}, "labels cannot be made into one array"),
        ((np.zeros((2, 0)), [0, 1]), {}, r"The examples are empty: their shape is \(2, 0\)"),
        ((np.zeros(2, complex), [0, 1]), {}, "Examples must be .*; got complex128"),
        ((np.zeros(2, "datetime64[s]"), [0, 1]), {}, "Examples must be .*; got datetime64"),
        pytest.param(
            (np.zeros(2, np.longdouble), [0, 1]),
            {},
            "floats of up to 64 bits.*; got float128",
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize < 16, reason="This platform has no such floats."),
        ),
        ((np.float64([1e300, 0]), [0, 1]), {}, r"too large for 32-bit floats \(1e\+300\)"),
        ((np.zeros(2), [0, None]), {}, "Labels must be integers or strings; got object"),
        ((np.zeros(2), [0, 1]), {"names": "ab"}, "names must be a list with one entry per class; got 'ab'"),
        ((np.zeros(2), [0, 1]), {"names": 2}, "names must be a list with one entry per class; got 2"),
        ((np.zeros(2), [0, 1]), {"names": {"a", "b"}}, "names must be a list with one entry per class"),
        ((np.zeros(2), [0, 1]), {"groupings": ["a", "b"]}, "groupings must be a dictionary"),
        ((np.zeros(2), [0, 1]), {"groupings": {1: ["a", "b"]}}, "grouping must be a string; got 1"),
        ((np.zeros(2), [0, 1]), {"groupings": {"kind": "ab"}}, "The grouping 'kind' must be a list with one entry per"),
        (
            (np.zeros(2), [0, 1]),
            {"splits": ["train"] * 3},
            r"each of the 2 examples; got an array of <U5 with shape \(3,",
        ),
        ((np.zeros(2), [0, 1]), {"splits": ["train"]}, "each of the 2 examples"),
        (
            (np.zeros(2), [0, 1]),
            {"splits": [0, 1]},
            "splits must have a string such as 'train' .* got an array of int64",
        ),
        ((np.zeros(2), [0, 1]), {"splits": "train"}, "splits must be an array or a list with one entry per example"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(arguments, more, message):
    with pytest.raises(ValueError, match=message):
        ClassPool(*arguments, **more)


def test_bytes_are_labels_like_strings():
    assert ClassPool(np.zeros(2), [b"dog", "kä".encode()]).names == ("dog", "kä")

"""Regression tasks: curves that are given at a few points and predicted at others."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.tasks.episodes import Episode, Tasks


class Curves(Tasks):
    """A base class for regression tasks: every task is a curve y = curve(x, parameters).

    A subclass implements `parameters`, which draws what distinguishes one task from another, and `curve`. Inputs are
    uniform on `x_range`, and `noise` is the standard deviation of normal noise that is added to the targets.

    >>> class Lines(Curves):
    ...     def parameters(self, seed):
    ...         return tf.random.stateless_normal((self.meta_batch, 1), seed)
    ...
    ...     def curve(self, x, slope):
    ...         return slope * x
    >>> next(iter(Lines(shots=3, queries=2, meta_batch=4, seed=0))).query_y.shape
    TensorShape([4, 2, 1])
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        meta_batch: int = 25,
        seed: int = 0,
        *,
        x_range: Sequence[float] = (-5.0, 5.0),
        noise: float = 0.0,
    ) -> None:
        checks.at_least(1, shots=shots, queries=queries)
        checks.interval(x_range=x_range)
        checks.nonnegative(noise=noise)
        self.shots, self.queries = shots, queries
        self.x_range, self.noise = tuple(x_range), noise
        super().__init__(meta_batch=meta_batch, seed=seed)

    def parameters(self, seed: tf.Tensor) -> tf.Tensor:
        """(meta_batch, ...) what distinguishes one task from another, drawn from `seed`."""
        raise NotImplementedError(f"{type(self).__name__} must implement parameters(seed), which draws its curves.")

    def curve(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """(meta_batch, points) values at `x` of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} must implement curve(x, parameters).")

    def draw(self, seed: tf.Tensor) -> Episode:
        return self.draw_with_parameters(seed)[1]

    def draw_with_parameters(self, seed: tf.Tensor) -> tuple[tf.Tensor, Episode]:
        """The parameters of each task, which an episode does not contain, and the episode."""
        for_parameters, for_x, for_noise = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        x = tf.random.stateless_uniform((self.meta_batch, self.shots + self.queries), for_x, *map(float, self.x_range))
        parameters = self.parameters(for_parameters)
        y = self.curve(x, parameters)
        if y.shape != x.shape:
            raise ValueError(
                f"{type(self).__name__}.curve must return one value per input, of shape {tuple(x.shape)}; it returned "
                f"shape {tuple(y.shape)}."
            )
        y += self.noise * tf.random.stateless_normal(tf.shape(x), for_noise)
        x, y = x[..., None], y[..., None]
        return parameters, Episode(x[:, : self.shots], y[:, : self.shots], x[:, self.shots :], y[:, self.shots :])


class Sinusoids(Curves):
    """Sine curves y = amplitude * sin(x - phase), the regression tasks of MAML (Finn et al., 2017, section 5.1).

    >>> next(iter(Sinusoids(shots=5, queries=10, meta_batch=3, seed=0))).support_x.shape
    TensorShape([3, 5, 1])
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        meta_batch: int = 25,
        seed: int = 0,
        *,
        amplitude: Sequence[float] = (0.1, 5.0),
        phase: Sequence[float] = (0.0, np.pi),
        x_range: Sequence[float] = (-5.0, 5.0),
        noise: float = 0.0,
    ) -> None:
        checks.interval(amplitude=amplitude, phase=phase)
        self.amplitude, self.phase = tuple(amplitude), tuple(phase)
        super().__init__(shots, queries, meta_batch, seed, x_range=x_range, noise=noise)

    def parameters(self, seed: tf.Tensor) -> tf.Tensor:
        lowest, highest = np.float32([self.amplitude, self.phase]).T
        return lowest + (highest - lowest) * tf.random.stateless_uniform((self.meta_batch, 2), seed)

    def curve(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        amplitude, phase = parameters[:, :1], parameters[:, 1:]
        return amplitude * tf.sin(x - phase)

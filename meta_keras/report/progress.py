"""Progress as occasional lines of text, for stored notebooks and logs, where a progress bar is not suitable."""

import keras

from meta_keras import checks


class Lines(keras.callbacks.Callback):
    """Print the logs of every `every`-th epoch on a line of their own. Use with `fit(..., verbose=0)`.

    >>> Lines(every=10).on_epoch_end(9, {"loss": 0.5, "accuracy": 0.875})
    epoch 10: loss 0.500, accuracy 0.875
    """

    def __init__(self, every: int = 1) -> None:
        checks.at_least(1, every=every)
        super().__init__()
        self.every = every

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in (logs or {}).items())
            print(f"epoch {epoch + 1}: {numbers}", flush=True)

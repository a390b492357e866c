"""What ends meta-training early, and what would make a resumed run differ."""

import math
from collections.abc import Iterable

import keras


class StopAtFault(keras.callbacks.Callback):
    """End training where the loss or its gradient is not finite. `train_step` has left the weights as they were."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        raise_fault(self.model)


def raise_fault(learner: keras.Model) -> None:
    """Raise a FloatingPointError if a step was not taken, and let the next step be taken again."""
    fault = int(learner.fault.numpy())
    if fault >= 0:
        learner.fault.assign(-1)
        learner.reset_metrics()  # which have seen the loss that was not finite
        raise FloatingPointError(
            f"The meta-loss or its gradient is not finite at step {fault} of meta-training. The weights are as they "
            "were before it. Lower the learning rates, or look for tasks with extreme values."
        )


def check_finite(learner: keras.Model) -> None:
    """Raise a FloatingPointError if an evaluation had a non-finite loss, because its metrics are then meaningless."""
    loss = next(float(metric.result()) for metric in learner.metrics if metric.name == "loss")
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss of these tasks is {loss}, so its metrics are meaningless. Look for tasks with extreme "
            "values, or for learning rates that are too high."
        )


def check_callbacks(callbacks: Iterable[keras.callbacks.Callback], known: int, steps: int | None) -> None:
    """Raise a ValueError for a backup that cannot be resumed exactly.

    known: how many batches there are; -1 if they never end, -2 if that is not known. steps: of an epoch, if given.
    """
    ends_with_epochs = steps is None or known == -1 or 0 <= known <= steps
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.BackupAndRestore):
            continue
        if callback.save_freq != "epoch":
            raise ValueError(
                f"BackupAndRestore(save_freq={callback.save_freq}) would repeat the steps of an unfinished epoch when "
                'it resumes, and so train longer. Use save_freq="epoch", with a smaller steps_per_epoch if need be.'
            )
        if not ends_with_epochs:
            raise ValueError(
                f"BackupAndRestore cannot resume exactly where an epoch of {steps} steps does not end with the data: "
                "they would begin again with the first batch. Leave steps_per_epoch out, or repeat() the tasks."
            )

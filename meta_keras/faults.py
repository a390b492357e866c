"""What ends meta-training before its time."""

import keras


class StopAtFault(keras.callbacks.Callback):
    """End training where the loss or its gradient is not finite. `train_step` has left the weights as they were."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        fault = int(self.model.fault)
        if fault >= 0:
            raise FloatingPointError(
                f"The meta-loss or its gradient is not finite at step {fault} of meta-training. The weights are "
                "as they were before it. Lower the learning rates, or look for tasks that are not finite."
            )

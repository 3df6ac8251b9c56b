"""The history of a run for TensorBoard."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from torch import Tensor

from cai.inference.learning.history import COLUMNS

__all__ = ["require_tensorboard", "write_events"]

FOLDER = "log"  # beside the run's state; what stands there may hold times


def require_tensorboard() -> None:
    """Refuses to go on without the package.

    Raises:
        ValueError: saying how to install it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "tensorboard=True writes files for TensorBoard, which is not installed: pip install "
            "'control-as-inference[tensorboard]'; details['history'] holds the same numbers"
        )


def write_events(folder: Path, history: Tensor, first: int) -> None:
    """Adds the records of a history from a row on, each column a curve over transitions.

    Args:
        folder: of the run.
        history: [R, 7], the step and then `COLUMNS`; what is NaN is left out.
        first: the first row that was not written yet.
    """
    if first >= len(history):
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / FOLDER))
    for step, *values in history[first:].tolist():
        for name, value in zip(COLUMNS, values, strict=True):
            if math.isfinite(value):
                writer.add_scalar(name, value, int(step))
    writer.close()

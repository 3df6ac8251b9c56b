"""What happened while a learner learned, by the number of transitions so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import xarray

__all__ = ["COLUMNS", "as_dataset"]

COLUMNS = ("episode_return", "episode_length", "entropy", "temperature", "critic_loss", "actor_loss")
UNITS = {"episode_return": "reward units, plain sum", "episode_length": "steps", "entropy": "nats"}
UNITS |= {"temperature": "reward units a nat", "critic_loss": "squared reward units", "actor_loss": "reward units"}
UNITS |= {"elbo": "nats"}


def as_dataset(history: Tensor, further: tuple[str, ...] = ()) -> xarray.Dataset:
    """A table of records with named axes.

    Args:
        history: [R, 1 + columns]: the step, then `COLUMNS`, then the further ones; NaN where a learner has none.
        further: names of further columns.

    Returns:
        Variables by name along dim `step`, the transitions so far over all copies of the world.
    """
    import xarray

    names = (*COLUMNS, *further)
    table = history.numpy()
    variables = {
        name: ("step", table[:, 1 + number].copy(), {"units": UNITS[name]}) for number, name in enumerate(names)
    }
    return xarray.Dataset(variables, coords={"step": table[:, 0].astype("int64")})

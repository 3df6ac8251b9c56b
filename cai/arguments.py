"""What the commands take: the types of their arguments, what completes them, and the problem that they describe."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from cai.inference.registry import available_backends
from cai.models.common.files import TakenPath, make_folder
from cai.models.common.options import named_options, split_names
from cai.models.rewards.registry import available_rewards, build_reward
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import available_models, build_model

__all__ = [
    "Backends",
    "Discount",
    "Horizon",
    "Name",
    "Options",
    "Rewards",
    "Seed",
    "Slip",
    "Temperature",
    "build_problem",
    "completes",
    "folder_for",
    "listed",
    "with_rewards",
]


def completes(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell asks for: the names that begin as the word does, after the last comma of it."""

    def complete(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(word)]

    return complete


Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name from 'cai models', or a Gymnasium id.",
        autocompletion=completes(available_models),
    ),
]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        help="A name from 'cai backends', with options if wanted (risk:eta=-2); several with commas between them, or "
        "by repeating the option.",
        autocompletion=completes(available_backends),
    ),
]
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        help="A name from 'cai rewards', with options (goal:states=exit,value=2), added to the model's own reward; "
        "names that hold commas as 'goal:states=bridge(2,3)' or in quotes; may be repeated.",
        autocompletion=completes(available_rewards),
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="A further option of the model (win_probability=0.3), or of the Gymnasium environment "
        "(is_slippery=false); may be repeated.",
    ),
]
Horizon = Annotated[str | None, typer.Option(help="Number of steps, or 'inf' for a stationary answer.")]
Temperature = Annotated[float | None, typer.Option(help="Reward units per nat, above 0.")]
Discount = Annotated[float | None, typer.Option(help="In (0, 1].")]
Slip = Annotated[float | None, typer.Option(help="Probability of slipping, where the model has one.")]
Seed = Annotated[int, typer.Option(help="For whatever draws.", min=0, max=2**63 - 1)]


def folder_for(path: Path, what: str) -> Path:
    """Makes a folder that an argument names; one that cannot be, since a file is in its way, is a bad argument."""
    try:
        return make_folder(path, what)
    except TakenPath as error:
        raise ValueError(str(error)) from error


def listed(names: list[str] | None) -> list[str]:
    """The names of a repeated option, each of which may hold several with commas between them."""
    return [name for text in names or () for name in split_names(text)]


def build_problem(
    name: str,
    horizon: str | None,
    temperature: float | None,
    discount: float | None,
    slip: float | None,
    options: list[str] | None,
) -> TrajectoryModel:
    """The model that the arguments describe.

    Raises:
        ValueError: if there is no such model, or it does not take an option.
    """
    given = {"horizon": _steps(horizon), "temperature": temperature, "discount": discount, "slip": slip}
    further = named_options(options or (), "--option", "--option NAME=VALUE")
    for key, value in further.items():
        if given.get(key) is not None:
            raise ValueError(f"{key} is given twice, by --{key} and by --option; leave one out")
        if key == "horizon":
            further[key] = _steps(str(value))
    try:
        return build_model(name, **{key: value for key, value in given.items() if value is not None} | further)
    except TypeError as error:  # an option of the wrong type is a bad argument here
        raise ValueError(str(error)) from None


def with_rewards(problem: TrajectoryModel, rewards: list[str] | None) -> TrajectoryModel:
    """The model, with reward factors added that were named on the command line."""
    try:
        extra = [build_reward(text) for text in listed(rewards)]
        return problem.replace(reward=sum(extra, start=problem.reward)) if extra else problem
    except TypeError as error:
        raise ValueError(str(error)) from None


def _steps(horizon: str | None) -> int | float | None:
    if horizon is None:
        return None
    with contextlib.suppress(ValueError):
        return int(horizon)
    with contextlib.suppress(ValueError):
        number = float(horizon)  # 20.0 and 1e3 are whole, too
        if number == math.inf or number.is_integer():
            return number if number == math.inf else int(number)
    raise ValueError(f"horizon is {horizon!r}; give a whole number of steps, or inf")

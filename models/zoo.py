"""The model zoo: problems known by name, and plug-ins from the entry-point group `cai.models`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from cai.models.gridworld import bridge, gridworld
from cai.models.mdp import MDP
from cai.models.reward_factors import Goal
from cai.models.toy_text import gymnasium_model
from cai.models.trajectory import TrajectoryModel

logger = logging.getLogger("cai.models")

__all__ = ["ModelEntry", "available_models", "build_model", "lottery"]


def lottery(
    win_probability: float = 0.5,
    *,
    safe_reward: float = -1.0,
    lose_reward: float = -10.0,
    horizon: int | float = 1,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """One decision that shows the optimism problem: `safe` pays -1, `gamble` pays 0 or, as often, -10.

    The situation is that of Levine 2018, section 2.3: a soft maximum over outcomes believes in the lucky one. With
    the defaults the evidence is log((e^-1 + (1 + e^-10) / 2) / 2), and exact inference gambles where the fixed
    dynamics do not.

    Args:
        win_probability: of `gamble`.
        safe_reward: what `safe` pays.
        lose_reward: what a lost gamble pays; a won one pays 0.
        horizon: T; the game is over after its one decision.
        temperature: alpha.
        discount: in (0, 1].
    """
    if not 0 <= win_probability <= 1:
        raise ValueError(f"win_probability is {win_probability}; give a number from 0 to 1")
    ends = [[[state]] * 2 for state in (1, 2, 3)]
    mdp = MDP.from_successors(
        [[[1], [2, 3]], *ends],
        [[[1.0], [win_probability, 1 - win_probability]], *[[[1.0]] * 2] * 3],
        [1.0, 0.0, 0.0, 0.0],
        terminal=[1, 2, 3],
        state_names=["choice", "safe", "won", "lost"],
        action_names=["safe", "gamble"],
        regions={"lost": [3]},
    )
    reward = Goal("safe", safe_reward) + Goal("lost", lose_reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="lottery")


@dataclass(frozen=True)
class ModelEntry:
    """A line of the zoo: a name, what it shows, and how it is built."""

    name: str
    summary: str
    build: Callable[..., TrajectoryModel]

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords that `build` takes; Gymnasium environments also take those of `gymnasium.make`."""
        return tuple(inspect.signature(self.build).parameters)


def _gymnasium_entry(name: str, summary: str) -> ModelEntry:
    def build(
        *, horizon: int | float | None = None, temperature: float = 1.0, discount: float = 1.0
    ) -> TrajectoryModel:
        return gymnasium_model(name, horizon=horizon, temperature=temperature, discount=discount)

    return ModelEntry(name, summary, build)


_BUILT_IN = (
    ModelEntry("lottery", "one decision: a safe loss of 1, or a gamble on 0 and -10", lottery),
    ModelEntry("bridge", "a short slippery bridge over a chasm, or a long safe way round", bridge),
    ModelEntry("gridworld", "a small maze from a text map; every move may slip", gridworld),
    _gymnasium_entry("FrozenLake-v1", "Gymnasium: a slippery lake with holes"),
    _gymnasium_entry("CliffWalking-v1", "Gymnasium: a walk along a cliff"),
    _gymnasium_entry("Taxi-v4", "Gymnasium: pick a passenger up and drop them off"),
)


def available_models() -> dict[str, ModelEntry]:
    """Every model known by name: the built-in ones, and the plug-ins of the entry-point group `cai.models`.

    A plug-in is a function that returns a `TrajectoryModel`; the first line of its docstring is its summary.
    """
    entries = {entry.name: entry for entry in _BUILT_IN}
    for point in entry_points(group="cai.models"):
        try:
            build = point.load()
        except Exception as error:  # one broken plug-in must not take the others with it
            logger.warning("model plug-in %s (%s) cannot be loaded: %r", point.name, point.value, error)
            continue
        summary = (inspect.getdoc(build) or "a plug-in").splitlines()[0]
        entries.setdefault(point.name, ModelEntry(point.name, summary, build))
    return entries


def build_model(name: str, **options: Any) -> TrajectoryModel:
    """Builds a model by name, or any Gymnasium environment with a `P` table by its id.

    Args:
        name: one of `available_models()`, or a Gymnasium id.
        **options: keywords of the model (horizon, temperature, discount, slip, ...); None leaves its own default.

    Raises:
        ValueError: if there is no such model, or it does not take an option.
    """
    options = {key: value for key, value in options.items() if value is not None}
    entries = available_models()
    if name not in entries:
        if "-v" in name or ":" in name:
            slip = options.pop("slip", None)
            if slip is not None:
                raise ValueError(f"model {name!r} does not take slip; it takes horizon, temperature, discount")
            return gymnasium_model(name, **options)
        raise ValueError(
            f"no model is called {name!r}; known are {', '.join(entries)}, and any Gymnasium id with a transition table"
        )
    entry = entries[name]
    unknown = [key for key in options if key not in entry.options]
    if unknown:
        hint = "; for options of the environment use gymnasium_model(...)" if "-v" in name else ""
        raise ValueError(f"model {name!r} does not take {unknown[0]}; it takes {', '.join(entry.options)}{hint}")
    return entry.build(**options)

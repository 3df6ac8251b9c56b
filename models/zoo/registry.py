"""The model zoo: problems known by name, and plug-ins from the entry-point group `cai.models`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cai.models.common.names import did_you_mean
from cai.models.common.options import check_kinds
from cai.models.common.plugins import Plugins, load_plugins
from cai.models.processes.observation import ObservationModel
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.chains import chain, double_chain, river_swim
from cai.models.zoo.grids import cliff, four_rooms, maze, windy
from cai.models.zoo.gridworld import bridge, gridworld
from cai.models.zoo.hidden import kitchen, kitchen_observations, tiger, tiger_observations
from cai.models.zoo.linear import double_integrator, lqg
from cai.models.zoo.operations import inventory, machine
from cai.models.zoo.plane import dubins, multi_goal
from cai.models.zoo.random_mdps import random_mdp
from cai.models.zoo.risk import ladder, lottery
from cai.models.zoo.roads import small_roads, street_places, three_paths
from cai.models.zoo.swing import cart_pole, pendulum
from cai.models.zoo.toy_text import gymnasium_model

__all__ = ["ModelEntry", "available_models", "build_model", "state_places", "zoo_entries"]


@dataclass(frozen=True)
class ModelEntry:
    """A line of the zoo: a name, what it shows, and how it is built.

    Attributes:
        name: how `build_model` knows it.
        summary: one line.
        build: makes the model; its docstring holds the source.
        observations: where the state is hidden, makes what is seen of it.
        places: where a graph has places of its own, (x, y) of each state; None for a process that is not of this kind.
        continuous: whether states and actions are vectors, so that it is no table.
        environment: whether it has a Gymnasium id: every action exists in every state, or actions fill a box.
            Gymnasium's own environments have ids of their own.
        read: whether process and reward are read from an environment's table, so that temperature, discount and horizon
            change nothing of them.
    """

    name: str
    summary: str
    build: Callable[..., Any]
    observations: Callable[..., ObservationModel] | None = None
    places: Callable[[TrajectoryModel], list[tuple[float, float]] | None] | None = None
    continuous: bool = False
    environment: bool = True
    read: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords that `build` takes; Gymnasium environments also take those of `gymnasium.make`."""
        parameters = inspect.signature(self.build).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD)

    @property
    def open(self) -> bool:
        """Whether `build` takes further keywords, and says itself which it does not know."""
        return any(p.kind == p.VAR_KEYWORD for p in inspect.signature(self.build).parameters.values())


def _gymnasium_entry(name: str, summary: str, source: str) -> ModelEntry:
    def build(
        *,
        horizon: int | float | None = None,
        temperature: float | None = None,
        discount: float = 1.0,
        **make_options: Any,
    ) -> TrajectoryModel:
        return gymnasium_model(name, horizon=horizon, temperature=temperature, discount=discount, **make_options)

    build.__doc__ = f"""{summary}, read from the environment's transition table.

    {source}. The default horizon is the environment's own limit of steps, or 100; further options are those of
    `gymnasium_model` and of the environment.
    """
    return ModelEntry(name, summary, build, environment=False, read=True)


_BUILT_IN = (
    ModelEntry("lottery", "one decision: a safe loss of 1, or a gamble on 0 and -10", lottery),
    ModelEntry(
        "ladder", "climb once more at the risk of a fall, or stop with the prize so far", ladder, environment=False
    ),
    ModelEntry("bridge", "a short slippery bridge over a chasm, or a long safe way round", bridge),
    ModelEntry("gridworld", "a small map with walls, drawn as text; every move may slip", gridworld),
    ModelEntry("windy", "a grid whose wind carries every move upwards (Sutton and Barto)", windy),
    ModelEntry("cliff", "the short way along an abyss, where a fall leads back to the start", cliff),
    ModelEntry("four-rooms", "four rooms, four doors, moves that go astray (Sutton, Precup and Singh)", four_rooms),
    ModelEntry("maze", "47 cells, and 14 steps to the goal (Sutton's Dyna)", maze),
    ModelEntry("river-swim", "swim against the current, or drift to a small reward (Strehl and Littman)", river_swim),
    ModelEntry("chain", "go on to the end for 10 a step, or back to the start for 2 (Dearden; Strens)", chain),
    ModelEntry("double-chain", "two ways from one start, and the worse one pays at once", double_chain),
    ModelEntry(
        "three-paths",
        "three equal paths, two of which share a street: label bias (Ziebart)",
        three_paths,
        environment=False,
    ),
    ModelEntry(
        "small-roads",
        "a town whose streets are states; minutes and turns are features",
        small_roads,
        places=street_places,
        environment=False,
    ),
    ModelEntry("inventory", "how much to order before the demand is known (Puterman)", inventory, environment=False),
    ModelEntry("machine", "run a machine that wears, or replace it", machine),
    ModelEntry("tiger", "listen, or open one of two doors; the state is hidden", tiger, tiger_observations),
    ModelEntry("kitchen", "to the kettle or to the fridge? an intent to be inferred", kitchen, kitchen_observations),
    ModelEntry(
        "double-integrator",
        "push a cart to the origin and stop it there: linear-Gaussian",
        double_integrator,
        continuous=True,
        environment=False,
    ),
    ModelEntry(
        "lqg",
        "an unstable plant that is seen through noise: linear-Gaussian (Doyle)",
        lqg,
        continuous=True,
        environment=False,
    ),
    ModelEntry(
        "pendulum", "swing a pendulum up with a motor too weak to lift it", pendulum, continuous=True, environment=False
    ),
    ModelEntry(
        "cart-pole",
        "swing up the pole on a cart (Barto, Sutton and Anderson)",
        cart_pole,
        continuous=True,
        environment=False,
    ),
    ModelEntry(
        "dubins", "a car that can only steer, past two discs (Dubins)", dubins, continuous=True, environment=False
    ),
    ModelEntry("multi-goal", "a point among four goals that are equally good (Haarnoja)", multi_goal, continuous=True),
    ModelEntry("random-mdp", "a Garnet: random successors, probabilities and rewards, by seed", random_mdp),
    _gymnasium_entry(
        "FrozenLake-v1",
        "Gymnasium: a slippery lake with holes",
        "Of Gymnasium's toy text (Towers et al. 2024); a move goes to each of its sides with probability 1/3",
    ),
    _gymnasium_entry(
        "CliffWalking-v1",
        "Gymnasium: the walk of Sutton and Barto's example 6.6",
        "Sutton and Barto 2018, example 6.6",
    ),
    _gymnasium_entry(
        "Taxi-v4", "Gymnasium: pick a passenger up and drop them off", "Dietterich 2000, the taxi of MAXQ"
    ),
)


def available_models() -> dict[str, ModelEntry]:
    """Every model known by name: the built-in ones, and the plug-ins of the entry-point group `cai.models`.

    A plug-in is a function that returns a model; the first line of its docstring is its summary.
    """
    return _built_in() | _plugins().made


def zoo_entries() -> tuple[ModelEntry, ...]:
    """The built-in models."""
    return _BUILT_IN


def _built_in() -> dict[str, ModelEntry]:
    return {entry.name: entry for entry in _BUILT_IN}


def _plugins() -> Plugins:
    return load_plugins("cai.models", _built_in(), _entry)


def _entry(name: str, build: Any) -> ModelEntry:
    if not callable(build):
        raise TypeError(f"it is a {type(build).__name__}; expected a function that returns a model")
    entry = ModelEntry(name, (inspect.getdoc(build) or "a plug-in").splitlines()[0], build)
    _ = entry.options  # of what has no signature nobody could say what it takes
    return entry


def state_places(model: TrajectoryModel) -> list[tuple[float, float]] | None:
    """(x, y) of each state of a model of the zoo whose states have places in the plane, for pictures; else None."""
    for entry in _BUILT_IN:
        if entry.name == model.name and entry.places is not None:
            return entry.places(model)
    return None


def build_model(name: str, **options: Any) -> Any:
    """Builds a model by name, or any Gymnasium environment with a `P` table by its id.

    Most are `TrajectoryModel`s; those of continuous states are `LinearGaussianModel`s or `ContinuousModel`s.

    Args:
        name: one of `available_models()` ("river_swim" is "river-swim"), or a Gymnasium id.
        **options: keywords of the model (horizon, temperature, discount, slip, ...), of a Gymnasium environment also
            its own (is_slippery, ...); None leaves its own default.

    Raises:
        ValueError: if there is no such model, or it does not take an option.
    """
    options = {key: value for key, value in options.items() if value is not None}
    entries = _built_in()
    if name.replace("_", "-") not in entries:  # looking for plug-ins takes a while
        plugins = _plugins()
        if name in plugins.broken:
            raise ValueError(plugins.broken[name])
        entries |= plugins.made
    name = name.replace("_", "-") if name.replace("_", "-") in entries else name
    if name not in entries:
        if "-v" in name or ":" in name:
            return gymnasium_model(name, **options)
        raise ValueError(
            f"no model is called {name!r}{did_you_mean(name, entries)}; known are {', '.join(entries)}, and any "
            "Gymnasium id with a transition table"
        )
    entry = entries[name]
    unknown = [key for key in options if key not in entry.options]
    if unknown and not entry.open:
        raise ValueError(
            f"model {name!r} does not take {unknown[0]}{did_you_mean(unknown[0], entry.options)}; it takes "
            f"{', '.join(entry.options)}"
        )
    check_kinds(entry.build, options, f"model {name!r}")
    return entry.build(**options)

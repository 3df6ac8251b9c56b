"""Gymnasium environments as worlds: what a learner asks of one, checked before the first step."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import as_count
from cai.models.common.names import KnownNames
from cai.models.common.simulator import Transition
from cai.models.environments.spaces import (
    UniformActions,
    bounded_actions,
    check_observations,
    check_prior,
    counted_from_0,
    reset_mode,
)
from cai.models.trajectory.checks import check_numbers

__all__ = ["EnvironmentModel", "environment_model"]

# Where nothing is discounted an episode of the action prior must be seen to terminate: before that many of them were
# cut at their limit, in at least so many steps, and within so many steps where no limit cuts them.
PROBE_EPISODES, PROBE_STEPS, LONGEST_PROBE = 10, 2000, 50_000


@dataclass(frozen=True, eq=False)
class EnvironmentModel(KnownNames):
    """A Gymnasium environment as a world that learners act in; made by `environment_model`, which says what is what.

    It is a `Simulator`: `reset(n)` makes n environments and resets them, `step` moves them. An environment cannot be
    set to a state, so `step` takes the states that it returned last, and refuses others. The discount is left to the
    learner: no chain falls.

    Attributes:
        source: an id, a function that makes an environment, or a vector environment.
        observation_space: of one environment; whole numbers count from 0, whatever the environment begins with.
        action_space: of one environment, with finite bounds; discrete actions count from 0.
        discount: in (0, 1].
        temperature: alpha > 0, in reward units per nat.
        action_prior: observations [N, ...] -> a torch distribution over actions, in the environment's units.
        horizon: math.inf; a limit on the steps of an episode is a truncation.
        name: for tables and messages.
        max_episode_steps: after which episodes are truncated; None for the environment's own limit.
        make_options: of `gymnasium.make`, or of the function.
    """

    source: Any
    observation_space: Any
    action_space: Any
    discount: float
    temperature: float
    action_prior: Callable[[Any], Any]
    horizon: float
    name: str
    max_episode_steps: int | None = None
    make_options: dict[str, Any] = field(default_factory=dict)
    _running: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def make(self, num_envs: int) -> Any:
        """A vector of environments in mode DISABLED: nothing is reset unless asked for.

        Whole numbers that are observed, and discrete actions, count from 0 here, whatever the environment begins with.
        Observations and rewards that are NaN or infinite are refused, with step, environment and episode.

        Args:
            num_envs: how many copies.

        Raises:
            ValueError: if the source is a vector environment of another number of copies.
        """
        from cai.models.environments.checked import CheckedVectorEnvironment

        made = _vector(
            self.source, as_count(num_envs, "num_envs"), self.max_episode_steps, self.make_options, self.name
        )
        seen = counted_from_0(made.single_observation_space)
        if seen != self.observation_space:
            raise ValueError(
                f"{self.name} now makes environments with observations {seen}; the first had {self.observation_space}"
            )
        return CheckedVectorEnvironment(made, seen, self.action_space, self.name)

    @property
    def fixed_number(self) -> int | None:
        """How many copies there are where the source is a vector environment; None where any number can be made."""
        return getattr(self.source, "num_envs", None)

    def reset(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The first observations [n, ...] of n environments, seeded by the generator."""
        running = self._running
        if running.get("n") != n:
            self.close()
            running["worlds"], running["n"] = self.make(n), n
        seeds = torch.randint(2**31, (n,), generator=generator).tolist()
        observations, _ = running["worlds"].reset(seed=seeds)
        running["states"] = torch.as_tensor(np.array(observations))
        running["alive"] = np.ones(n, dtype=bool)
        return running["states"].clone()

    def step(self, states: Tensor, actions: Tensor, t: int, generator: torch.Generator | None = None) -> Transition:
        """Moves every environment by one step; one that has ended stays where it is, and earns nothing.

        Args:
            states: [N, ...], as `reset` or the last step returned them.
            actions: [N, ...], in the environment's units.
            t: the time index; the environments count for themselves.
            generator: not asked; the environments draw, from the seeds that `reset` gave them.

        Raises:
            ValueError: if the states are others, to which no environment can be set.
        """
        running = self._running
        known = running.get("states")
        if known is None or states.shape != known.shape or not torch.equal(states, known):
            raise ValueError(
                f"{self.name} cannot be set to a state: step takes the states that reset or the last step returned; "
                "call reset(n) first, and hand them on unchanged"
            )
        alive, worlds = running["alive"], running["worlds"]
        if not alive.any():
            paid = torch.zeros(len(known), dtype=torch.float64)
            return Transition(known.clone(), paid, torch.as_tensor(alive.copy()))
        found = worlds.step(torch.as_tensor(actions).detach().cpu().numpy())
        observations, rewards, ended = found[0], found[1], found[2] | found[3]
        shaped = alive.reshape(-1, *[1] * (np.ndim(observations) - 1))
        following = torch.as_tensor(np.where(shaped, observations, known.numpy()))
        paid = torch.as_tensor(np.where(alive, rewards, 0.0), dtype=torch.float64)
        running["states"], running["alive"] = following, alive & ~ended
        if ended.any() and running["alive"].any():  # so that what has ended is never moved; its episodes do not count
            worlds.reset(seed=_next_seeds(worlds.num_envs, generator), options={"reset_mask": ended})
        return Transition(following.clone(), paid, torch.as_tensor(running["alive"].copy()))

    def close(self) -> None:
        """Closes the environments that `reset` has made."""
        worlds = self._running.pop("worlds", None)
        self._running.clear()
        if worlds is not None and self.fixed_number is None:
            worlds.close()

    def replace(self, **changes: Any) -> EnvironmentModel:
        """The same world with some arguments of `environment_model` changed, checked anew."""
        known = {name: getattr(self, name) for name in ("discount", "temperature", "max_episode_steps")}
        known["action_prior"] = None if isinstance(self.action_prior, UniformActions) else self.action_prior
        box = getattr(self.action_space, "low", None)
        known["action_bounds"] = None if box is None else (box, self.action_space.high)
        source = changes.pop("source", self.source)
        return environment_model(source, **{**known, **self.make_options, **changes})

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.init}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_running": {}}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"EnvironmentModel({self.name!r}, observations={self.observation_space}, actions={self.action_space}, "
            f"discount={self.discount:g}, temperature={self.temperature:g})"
        )


def environment_model(
    source: Any,
    *,
    discount: float,
    temperature: float,
    action_bounds: Any = None,
    action_prior: Callable[[Any], Any] | None = None,
    max_episode_steps: int | None = None,
    **make_options: Any,
) -> EnvironmentModel:
    """A Gymnasium environment as a world: what `cai.infer(world, "soft-actor-critic", ...)` learns in.

    Args:
        source: an id such as "Pendulum-v1"; a function that makes one environment, or, with a parameter `num_envs`, a
            vector of them; or a vector environment in `AutoresetMode.DISABLED`.
        discount: gamma in (0, 1]. With 1, an episode of the action prior must be seen to terminate before ten were cut
            at their limit of steps (at least 2,000 steps are tried), and within 50,000 steps where there is no limit.
            This tells a world whose episodes never end by themselves; it cannot tell one in which a learned policy
            keeps clear of the end, as in CartPole: values there have no bound, and a discount below 1 is needed.
        temperature: alpha > 0, in reward units per nat; 1 / alpha is the reward scale.
        action_bounds: (low, high), the box in which actions lie; needed where the environment's own has none.
        action_prior: observations [N, ...] -> a torch distribution over actions, batch shape [N], in the environment's
            units; uniform over the action space (density 1 / volume) unless given.
        max_episode_steps: after which episodes are truncated; the environment's own limit unless given. A truncation
            is no end: learners go on from the last observation.
        **make_options: of `gymnasium.make` with an id, or of the function.

    Raises:
        TypeError, ValueError: if there is no such environment; its observations are a Dict, Tuple or MultiBinary; its
            actions have no finite bounds; a ready-made vector resets itself; discount or temperature are out of range;
            the prior is no distribution over the actions; or nothing is discounted and no episode terminates.
    """
    check_numbers(temperature, discount)
    limit = None if max_episode_steps is None else as_count(max_episode_steps, "max_episode_steps")
    if action_prior is not None and not callable(action_prior):
        raise TypeError(
            f"action_prior is a {type(action_prior).__name__}; expected a function from observations [N, ...] to a "
            "torch distribution over actions"
        )
    name = _name(source)
    options = dict(make_options)
    first = _vector(source, getattr(source, "num_envs", 1), limit, options, name)
    try:
        check_observations(first.single_observation_space, name)
        actions = bounded_actions(first.single_action_space, action_bounds, name)
        world = EnvironmentModel(
            source,
            counted_from_0(first.single_observation_space),
            actions,
            float(discount),
            float(temperature),
            UniformActions(actions) if action_prior is None else action_prior,
            math.inf,
            name,
            limit,
            options,
        )
    finally:
        if first is not source:
            first.close()
    if action_prior is not None:
        _check_prior(world)
    if discount == 1:
        _check_ends(world)
    return world


def _name(source: Any) -> str:
    """What a world is called."""
    if isinstance(source, str):
        return source
    spec = getattr(source, "spec", None)
    return str(getattr(spec, "id", None) or getattr(source, "__name__", None) or type(source).__name__)


def _vector(source: Any, number: int, limit: int | None, options: dict[str, Any], name: str) -> Any:
    """A vector environment in mode DISABLED, of so many copies of what a source makes."""
    import gymnasium
    from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

    if isinstance(source, gymnasium.Env):
        raise TypeError(
            f"{name} is one environment that is made already, and a world makes its own: give an id, or a function "
            "that makes it (lambda: ...)"
        )
    ready = isinstance(source, VectorEnv)
    if ready or (callable(source) and "num_envs" in _parameters(source)):
        if ready and options:
            raise ValueError(f"options {sorted(options)} are for an id or a function; this vector is made already")
        if limit is not None:
            raise ValueError("max_episode_steps belongs to what makes the vector environment; say it there")
        made = source if ready else _called(source, {"num_envs": number, **options}, name)
        mode = reset_mode(made) if isinstance(made, VectorEnv) else None
        if not isinstance(made, VectorEnv):
            raise TypeError(f"{name} takes num_envs and returned a {type(made).__name__}; expected a VectorEnv")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(
                f"the vector environment {name} resets itself (its autoreset_mode is {mode}); its last "
                "observations and the seeds of its episodes are then not known: make it with "
                "autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED, or give an id or a function"
            )
        if made.num_envs != number:
            raise ValueError(
                f"the vector environment {name} has {made.num_envs} copies, and {number} were asked for; give "
                f"num_envs={made.num_envs}, or a function that makes environments"
            )
        return made
    if not isinstance(source, str) and not callable(source):
        raise TypeError(
            f"the source of a world is a {type(source).__name__}; expected an id, a function that makes an "
            "environment, or a vector environment"
        )
    return SyncVectorEnv([lambda: _one(source, limit, options, name)] * number, autoreset_mode=AutoresetMode.DISABLED)


def _parameters(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def _called(function: Any, options: dict[str, Any], name: str) -> Any:
    """What the function of a world returns.

    Raises:
        TypeError: if it does not take the options, or asks for more.
    """
    with contextlib.suppress(ValueError):  # of some that are written in C nothing is known
        try:
            inspect.signature(function).bind(**options)
        except TypeError as error:
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            raise TypeError(
                f"{name} cannot be called as {name}({given}): {error}; a function that makes one environment is called "
                "with the options of environment_model alone, and one with a parameter num_envs makes a vector"
            ) from None
    return function(**options)


def _one(source: Any, limit: int | None, options: dict[str, Any], name: str) -> Any:
    """One environment."""
    import gymnasium

    from cai.models.environments.checked import CheckedEnvironment

    if isinstance(source, str):
        try:
            return CheckedEnvironment(gymnasium.make(source, max_episode_steps=limit, **options), name)
        except (gymnasium.error.Error, ImportError) as error:
            raise ValueError(f"Gymnasium cannot make {source!r}: {error}") from None
        except TypeError as error:
            raise ValueError(f"Gymnasium environment {source!r} does not take these options: {error}") from None
    made = _called(source, options, name)
    if not isinstance(made, gymnasium.Env):
        raise TypeError(f"{name} returned a {type(made).__name__}; expected a gymnasium.Env")
    checked = CheckedEnvironment(made, name)
    return checked if limit is None else gymnasium.wrappers.TimeLimit(checked, limit)


def _check_prior(world: EnvironmentModel) -> None:
    """Raises TypeError or ValueError unless the prior has actions for a first observation, shown twice."""
    number = world.fixed_number or 1
    worlds = world.make(number)
    seen, _ = worlds.reset(seed=list(range(number)))
    if world.fixed_number is None:
        worlds.close()
    check_prior(world.action_prior, torch.as_tensor(np.repeat(seen[:1], 2, 0)), world.action_space, world.name)


def _check_ends(world: EnvironmentModel) -> None:
    """Raises ValueError unless an episode of the action prior terminates."""
    number = world.fixed_number or 1
    worlds, generator = world.make(number), torch.Generator().manual_seed(0)
    observations, info = worlds.reset(seed=list(range(number)))
    step = cut = 0
    ends = False
    while not ends and step * number < LONGEST_PROBE and (cut < PROBE_EPISODES or step * number < PROBE_STEPS):
        actions = draw_actions(world, observations, info, generator)
        observations, _, terminated, truncated, info = worlds.step(actions.numpy())
        step += 1
        ends = bool(terminated.any())
        if truncated.any() and not ends:
            cut += int(truncated.sum())
            seeds = [number * step + i for i in range(number)]
            observations, info = worlds.reset(seed=seeds, options={"reset_mask": np.asarray(truncated)})
    if world.fixed_number is None:
        worlds.close()
    if not ends:
        raise ValueError(
            f"discount is 1, and no episode of {world.name} terminated within {step * number:,} steps of the action "
            f"prior ({cut} were cut at their limit of steps, which is a truncation, no end): values have no bound; "
            "give a discount below 1, or, if episodes do end, a higher max_episode_steps or a prior that ends them"
        )


def draw_actions(world: EnvironmentModel, observations: Any, info: Any, generator: torch.Generator) -> Tensor:
    """Actions [N, ...] of the action prior, in the environment's units.

    Args:
        world: the world.
        observations: [N, ...].
        info: of the vector environment, whose `action_mask` a uniform prior over discrete actions keeps to.
        generator: of the draws.
    """
    from cai.models.common.random_draws import OwnDraws

    mask = info.get("action_mask") if isinstance(info, dict) else None
    if isinstance(world.action_prior, UniformActions):
        if mask is not None and hasattr(world.action_space, "n"):
            return torch.multinomial(torch.as_tensor(mask, dtype=torch.float64), 1, generator=generator)[:, 0]
        return world.action_prior.sample(observations, generator)
    with OwnDraws(generator):
        actions: Tensor = world.action_prior(torch.as_tensor(observations)).sample()
    return actions


def _next_seeds(number: int, generator: torch.Generator | None) -> list[int]:
    return torch.randint(2**31, (number,), generator=generator).tolist()

"""What a policy earns in a world that can only be run: whole episodes, with and without the policy's own draws."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import as_count
from cai.models.common.memory import require_chains
from cai.models.common.random_draws import seeded
from cai.models.common.storage import Saved, storable
from cai.models.continuous.world import World
from cai.models.environments.collect import acting_worlds, told_masks
from cai.models.environments.streams import EVALUATION_COPY, reset_seed
from cai.models.environments.world import EnvironmentModel
from cai.policies.environments import Runs

__all__ = ["EpisodeOutcome", "Estimate", "evaluate_episodes", "play_episodes", "takes_means"]

SIDE_BY_SIDE = 10  # environments at once
LONGEST_EPISODE = 1_000_000  # steps after which an episode that neither ends nor is cut is an error


@storable("estimate")
@dataclass(frozen=True, eq=False)
class Estimate(Saved):
    """A mean over episodes, and how well it is known.

    Attributes:
        mean: over the episodes.
        std: the standard deviation of one episode.
        standard_error: of the mean.
        samples: float64 [episodes], in their order.
    """

    mean: float
    std: float
    standard_error: float
    samples: Tensor = field(repr=False)

    @classmethod
    def of(cls, samples: Tensor) -> Estimate:
        """The estimate from at least two samples [episodes]."""
        spread = float(samples.std())
        return cls(float(samples.mean()), spread, spread / math.sqrt(len(samples)), samples)


@storable("episode-outcome")
@dataclass(frozen=True, eq=False)
class EpisodeOutcome(Saved):
    """What happens to a policy in episodes of a world.

    Attributes:
        stochastic_return: the plain sum of an episode's rewards, actions drawn; the number that papers report.
        deterministic_return: the same with the policy's mean or most probable actions; None where it refuses them.
        discounted_return: sum of gamma^t r_t of the episodes with drawn actions; nothing is added for what a truncated
            episode would still have earned.
        episode_length: steps of the episodes with drawn actions.
    """

    stochastic_return: Estimate
    deterministic_return: Estimate | None
    discounted_return: Estimate
    episode_length: Estimate

    def __getattr__(self, name: str) -> Any:
        if name == "expected_return":
            raise AttributeError(
                "episodes are samples and know no expected_return; stochastic_return.mean is its estimate, with a "
                "standard_error"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _repr_html_(self) -> str:
        """The numbers as a table."""
        names = ("stochastic_return", "deterministic_return", "discounted_return", "episode_length")
        rows = [(name, getattr(self, name)) for name in names]
        lines = "".join(
            f"<tr><th>{escape(name)}</th><td>{one.mean:.6g} &plusmn; {one.standard_error:.2g}</td></tr>"
            for name, one in rows
            if one is not None
        )
        return f"<table><caption>Episodes (mean and its standard error)</caption>{lines}</table>"


class Played(NamedTuple):
    """Episodes in their order, each [episodes]: plain sums of rewards, discounted ones, and numbers of steps."""

    returns: Tensor
    discounted: Tensor
    lengths: Tensor


def evaluate_episodes(
    policy: Any, world: EnvironmentModel | World, *, episodes: int = 20, seed: int = 0
) -> EpisodeOutcome:
    """Plays whole episodes.

    Episode i is reset with the seed `SeedSequence([seed, 2^32 - 1, i])`, the same for drawn and for deterministic
    actions, which training never uses.

    Args:
        policy: with `act(observations, t, generator=..., deterministic=...)`, on observations of the environment, or on
            states of the continuous model; over T steps it is cut after T.
        world: the environment or the continuous model.
        episodes: how many, at least 2.
        seed: of resets and actions; the global random state is left alone.

    Raises:
        TypeError, ValueError: if the policy does not fit the world, or the world is a batch.
    """
    number = as_count(episodes, "episodes", 2)
    require_chains(number)
    if not hasattr(policy, "act") or hasattr(policy, "belief"):
        raise TypeError(f"a {type(policy).__name__} does not act on observations; use cai.extract_policy(posterior)")
    if isinstance(policy, Runs) and isinstance(world, EnvironmentModel):
        policy._check_spaces(world.observation_space, world.action_space)
    drawn = play_episodes(policy, world, number, seed=seed, deterministic=False)
    fixed = (
        play_episodes(policy, world, number, seed=seed, deterministic=True)
        if takes_means(policy, world, seed)
        else None
    )
    return EpisodeOutcome(
        stochastic_return=Estimate.of(drawn.returns),
        deterministic_return=None if fixed is None else Estimate.of(fixed.returns),
        discounted_return=Estimate.of(drawn.discounted),
        episode_length=Estimate.of(drawn.lengths),
    )


def takes_means(policy: Any, world: Any, seed: int) -> bool:
    """Whether a policy acts without drawing; one that has no such action raises ValueError."""
    worlds = acting_worlds(world, getattr(world, "fixed_number", None) or 1)
    seen, _ = worlds.reset(seed=[reset_seed(seed, EVALUATION_COPY, i) for i in range(worlds.num_envs)])
    try:
        policy.act(torch.as_tensor(np.array(seen)), 0, generator=torch.Generator(), deterministic=True)
    except (ValueError, NotImplementedError):
        return False
    finally:
        if getattr(world, "fixed_number", None) is None:
            worlds.close()
    return True


@torch.no_grad()
def play_episodes(
    policy: Any, world: Any, number: int, *, seed: int, deterministic: bool, side_by_side: int = SIDE_BY_SIDE
) -> Played:
    """Every episode to its end; an environment whose episode is over takes the next one that nobody has begun.

    Args:
        policy: as for `evaluate_episodes`; where the world tells by `info["action_mask"]` which actions are available,
            a policy whose `act` has a parameter `action_mask` is told.
        world: the environment or the continuous model.
        number: of episodes.
        seed: of resets and actions.
        deterministic: whether the policy takes its mean or most probable actions.
        side_by_side: environments at once, unless the world is a ready-made vector.
    """
    fixed = getattr(world, "fixed_number", None)
    copies = fixed or min(number, side_by_side)
    worlds = acting_worlds(world, copies)
    dtype = worlds.single_action_space.dtype
    generator = seeded(seed)
    horizon = getattr(policy, "horizon", math.inf)
    returns, discounted, lengths = (np.zeros(number) for _ in range(3))
    playing, following = np.arange(copies), copies  # copies whose number is beyond the last episode are not counted
    times = np.zeros(copies, dtype=np.int64)
    observations, info = worlds.reset(seed=[reset_seed(seed, EVALUATION_COPY, int(i)) for i in playing])
    while bool((playing < number).any()):
        seen = torch.as_tensor(np.array(observations))
        known = told_masks(policy, info)
        actions = _actions(policy, seen, times, horizon, generator, deterministic, known)
        observations, rewards, terminated, truncated, info = worlds.step(actions.astype(dtype))
        counted = playing < number
        here = playing[counted]
        returns[here] += rewards[counted]
        discounted[here] += world.discount ** times[counted] * rewards[counted]
        times += 1
        lengths[here] = times[counted]
        over = terminated | truncated | (times >= horizon)
        if int(times[counted].max()) >= LONGEST_EPISODE and not over[counted].all():
            raise ValueError(
                f"an episode has not ended after {LONGEST_EPISODE:,} steps; give the world max_episode_steps=..., "
                "after which episodes are truncated"
            )
        if over.any():
            for copy in np.flatnonzero(over):
                playing[copy], following = following, following + 1
            times[over] = 0
            seeds = [reset_seed(seed, EVALUATION_COPY, int(i)) for i in playing]
            observations, info = worlds.reset(seed=seeds, options={"reset_mask": over})
    if fixed is None:
        worlds.close()
    return Played(*(torch.as_tensor(part) for part in (returns, discounted, lengths)))


def _actions(
    policy: Any,
    seen: Tensor,
    times: np.ndarray,
    horizon: float,
    generator: torch.Generator,
    deterministic: bool,
    known: dict[str, Any],
) -> np.ndarray:
    """[N, ...], what is done next; a policy over T steps is asked for each time by itself."""
    if horizon == math.inf:
        return np.asarray(policy.act(seen, 0, generator=generator, deterministic=deterministic, **known))
    actions: np.ndarray | None = None
    for t in np.unique(times):
        rows = times == t
        here = {name: part[rows] for name, part in known.items()}
        taken = np.asarray(policy.act(seen[rows], int(t), generator=generator, deterministic=deterministic, **here))
        if actions is None:
            actions = np.zeros((len(seen), *taken.shape[1:]), dtype=taken.dtype)
        actions[rows] = taken
    assert actions is not None  # there is at least one environment
    return actions

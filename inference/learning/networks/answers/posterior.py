"""The answer that networks learned: a policy, its critic, and what episodes say of its bound."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.lazy import lazy
from cai.inference.core.policy import Policy, policy_classes
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown, Status
from cai.inference.core.storage import can_store, storable
from cai.inference.learning.networks.answers.policy import LearnedPolicy
from cai.inference.learning.networks.experience.interface import Interface, make_worlds
from cai.inference.learning.networks.runs.travelling import pack
from cai.models.environments.streams import EVALUATION_COPY, reset_seed

__all__ = ["LearnedPosterior", "policy_of"]

EPISODES = 20
OF_EPISODES = ("episodes", "elbo", "believed_return", "policy_divergence")
SLACK = 1e-6  # of the width of a box: what float32 may add to an action at its edge
LONGEST_EPISODE = 100_000  # steps of an episode without a discount, after which it is an error


@storable("learned-episodes")
class _Sums(NamedTuple):
    """What episodes came to, [E] each, discounted: rewards, divergences (nats), the tail's worth (reward units)."""

    rewards: Tensor
    divergences: Tensor
    tails: Tensor


class LearnedPosterior(Posterior):
    """A policy learned from samples, q(a | o), under the world's own dynamics; and its critic.

    `elbo` and `believed_return` are means over 20 stochastic episodes, run when they are first looked at, with their
    standard errors in `details`. What follows a truncated episode is taken from the critic: gamma^n V(last
    observation); `details["tail_share"]` says how much of the bound that is.

    Attributes:
        learned_policy: what acts.
        brain: the networks.
        seed: of the episodes.
    """

    learned_policy: LearnedPolicy
    brain: Any
    seed: int
    entropy_form: bool
    kind = "learned"

    @lazy
    def luck(self) -> Tensor:
        """0: dynamics and start are the world's."""
        return torch.zeros((), dtype=torch.float64)

    @lazy
    def episodes(self) -> _Sums:
        """20 stochastic episodes."""
        if self.model is None:
            raise self._without_world()
        return _run(self, EPISODES)

    @lazy
    def elbo(self) -> Tensor | None:
        """E[sum gamma^t (r - alpha log pi/p)] / alpha from episodes, nats, 0-dim.

        None of a policy without density, and of a run that left the floats, whose policy cannot act.

        Raises:
            ValueError: if an episode does not end.
        """
        if not self.has_density or self._left_the_floats:
            return None
        sums, alpha = self.episodes, self.temperature
        totals = (sums.rewards + sums.tails) / alpha - sums.divergences
        self._tell("standard_error", float(totals.std()) / math.sqrt(EPISODES))
        mean = totals.mean()
        self._tell("tail_share", float(sums.tails.mean()) / alpha / float(mean) if float(mean) else 0.0)
        return mean

    @lazy
    def believed_return(self) -> Tensor | None:
        """E[sum gamma^t r] from the same episodes, reward units, 0-dim; truncated ones count as far as they went.

        None of a run that left the floats.
        """
        return None if self._left_the_floats else self.episodes.rewards.mean()

    @lazy
    def policy_divergence(self) -> Tensor | None:
        """The discounted sum of KL(pi || p) along the same episodes, nats, 0-dim; None in the entropy form.

        None, too, of a policy without density, and of a run that left the floats.
        """
        if not self.has_density or self.entropy_form or self._left_the_floats:
            return None
        return self.episodes.divergences.mean()

    @property
    def has_density(self) -> bool:
        """Whether densities of the policy's actions are known; those of a Stein sampler are not."""
        return bool(getattr(self.brain, "has_density", True))

    @property
    def _left_the_floats(self) -> bool:
        """Whether that is why the run is unstable; where its temperature ran to a bound, its policy still acts."""
        return self.status is Status.UNSTABLE and not self.brain.temperature.at_bound

    def _tell(self, name: str, value: float) -> None:
        self.__dict__["details"] = MappingProxyType({**self.details, name: value})

    @property
    def temperature(self) -> float:
        """alpha, the last one where it was learned."""
        return float(self.brain.temperature.value)

    def value(self, observations: Any, *, action_mask: Any = None, seed: int = 0) -> Tensor:
        """[N], what the critic says of observations [N, ...] as the world gives them, reward units.

        In a box of actions that of Q-functions is a mean over 16 of the policy's, drawn by the seed.

        Args:
            observations: [N, ...].
            action_mask: [N, A], not 0 where an action is available; all are unless given.
            seed: of the draws.
        """
        rows = self.learned_policy.interface.rows(observations)
        allowed = None if action_mask is None else (torch.as_tensor(np.asarray(action_mask)) != 0).float()
        found: Tensor = self.brain.values(rows, allowed, torch.Generator().manual_seed(seed))
        return found

    def q_value(self, observations: Any, actions: Any) -> Tensor:
        """[N], what the critic says of actions [N, ...] in the world's units, reward units.

        Raises:
            NotKnown: if what was learned are values of observations alone.
            ValueError: if there is not one action for each observation, or no such action exists.
        """
        if not hasattr(self.brain, "q_values"):
            raise self._unknown("what actions are worth", "ask answer.value(observations), or 'soft-actor-critic'")
        interface = self.learned_policy.interface
        rows = interface.rows(observations)
        given = interface.given_actions(actions, len(rows))
        if not interface.num_actions:
            slack = SLACK * (interface.high - interface.low)
            outside = ((given < interface.low - slack) | (given > interface.high + slack)).any(1)
            if bool(outside.any()):
                raise ValueError(
                    f"action {given[outside][0].tolist()} lies outside the box from {interface.low.tolist()} to "
                    f"{interface.high.tolist()}"
                )
        found: Tensor = self.brain.q_values(rows, interface.from_world(given))
        return found

    def policy(self, kind: str = "stochastic") -> Policy:
        """The learned policy.

        Args:
            kind: "stochastic" alone; `act(..., deterministic=True)` takes the mean or the most probable action.

        Raises:
            ValueError: for another kind.
        """
        if kind != "stochastic":
            raise ValueError(
                f"kind is {kind!r}; a learned policy is 'stochastic', and acts deterministically if asked to"
            )
        return self.learned_policy

    # ---- travelling ---------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """The parts, with the networks packed; the policy is made of them again."""
        return {name: part for name, part in super()._state().items() if name != "learned_policy"} | {
            "brain": pack(self.brain)
        }

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if state.get("model") is None and self._look_first():
            return self.__getstate__()
        return state | {"brain": state["brain"].portable(state.get("model"))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        brain = state["brain"].unpack(state.get("model"))
        super().__setstate__({**state, "brain": brain, "learned_policy": policy_of(brain, state["backend"])})

    def _stored(self) -> dict[str, Any]:
        if not can_store(self.model):
            self._look_first()
        state = super()._stored()
        return state | {"brain": state["brain"].portable(state.get("model"))}

    def __getattr__(self, name: str) -> Any:  # where a `lazy` raises NotKnown, which is an AttributeError
        if name in OF_EPISODES and self.__dict__.get("model") is None:
            raise self._without_world()
        return super().__getattr__(name)

    def _without_world(self) -> NotKnown:
        return self._unknown("what episodes come to", "look at answer.elbo before it is saved", "the world is gone")

    def _look_first(self) -> bool:
        """Whether numbers were worked out now that need the world, which is about to be left behind."""
        if "episodes" in self.__dict__ or self.model is None or not self.status.ok:
            return False
        for name in OF_EPISODES:
            getattr(self, name)
        return True


storable("learned-posterior", pack=LearnedPosterior._stored, unpack=LearnedPosterior._from_stored)(LearnedPosterior)


def policy_of(brain: Any, source: str) -> LearnedPolicy:
    """What acts, of networks as they are now.

    Args:
        brain: the networks.
        source: the backend that they belong to.
    """
    setting = brain.setting
    interface: Interface = setting.interface
    named = setting.policy if isinstance(setting.policy, str) else "module"
    made: LearnedPolicy = policy_classes["learned"](
        interface,
        (interface.size, *setting.hidden_sizes, interface.num_actions or 2 * interface.action_size),
        {name: part.clone() for name, part in brain.policy_tensors().items()},
        brain.temperature.value,
        setting.log_prior if interface.num_actions else None,
        source,
        named,
        setting.beneath,
        setting.network,
        setting.policy if named == "module" else None,
    )
    return made


@torch.no_grad()
def _run(posterior: LearnedPosterior, number: int) -> _Sums:
    """Episodes of the stochastic policy, each reset with a seed of its own; in rounds where there are fewer copies."""
    world = posterior.model
    one = getattr(world, "fixed_number", None)
    copies = number if one is None else one
    worlds = make_worlds(world, copies)
    generator = torch.Generator().manual_seed(posterior.seed)
    rounds = [_round(posterior, worlds, first, generator) for first in range(0, number, copies)]
    if one is None:
        worlds.close()
    return _Sums(*(torch.cat(parts)[:number] for parts in zip(*rounds, strict=True)))


def _round(posterior: LearnedPosterior, worlds: Any, first: int, generator: torch.Generator) -> _Sums:
    """An episode of each copy of the world.

    Args:
        posterior: whose policy acts.
        worlds: the copies.
        first: the number of the first episode.
        generator: of the actions.
    """
    world, brain, copies = posterior.model, posterior.brain, worlds.num_envs
    interface: Interface = posterior.learned_policy.interface
    seen, info = worlds.reset(seed=[reset_seed(posterior.seed, EVALUATION_COPY, first + i) for i in range(copies)])
    totals, spent, tails = (np.zeros(copies) for _ in range(3))
    weight, alive = np.ones(copies), np.ones(copies, dtype=bool)
    gamma = world.discount
    for _ in range(LONGEST_EPISODE):
        actions, divergences = brain.draw(interface.rows(seen), interface.allowed(info), generator)
        spent += weight * alive * divergences.double().numpy()
        seen, rewards, terminated, truncated, info = worlds.step(interface.to_world(actions).numpy())
        totals += weight * alive * rewards
        weight = weight * gamma
        cut = alive & truncated & ~terminated
        if cut.any():
            worth = brain.values(interface.rows(seen), interface.allowed(info), generator)
            tails += np.where(cut, weight * worth.double().numpy(), 0.0)
        over = terminated | truncated
        alive = alive & ~over
        if not alive.any() or weight.max() < 1e-12:
            break
        if over.any():  # so that what has ended is not moved; its further episodes do not count
            seen, info = worlds.reset(seed=[1] * copies, options={"reset_mask": over})
    else:
        raise ValueError(
            f"an episode of {world.name} has not ended after {LONGEST_EPISODE:,} steps, so its return is not known; "
            "give the world max_episode_steps=..., after which episodes are truncated, or a discount below 1"
        )
    return _Sums(*(torch.from_numpy(part) for part in (totals, spent, tails)))

"""Acting on beliefs: an MDP policy in a world whose states are hidden, with a filter for what is known of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.tabular.filtering import StateFilter
from cai.models.common.numerics import safe_log
from cai.models.common.storage import Saved, storable
from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel
from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import Policy

__all__ = ["BeliefPolicy"]


def _parts(policy: BeliefPolicy) -> dict[str, Any]:
    """What a file keeps, with the belief that was reached."""
    states = policy.states
    known = {"policy": policy.policy, "process": states.process, "observation_model": states.observation_model}
    return known | {"log_beliefs": policy._log_beliefs, "t": policy.t}


def _of_parts(parts: dict[str, Any]) -> BeliefPolicy:
    log_beliefs, t = parts.pop("log_beliefs"), parts.pop("t")
    policy = BeliefPolicy(**parts)
    policy._log_beliefs, policy.t = log_beliefs, t
    return policy


@storable("belief-policy", pack=_parts, unpack=_of_parts)
class BeliefPolicy(Saved):
    """A policy on states, averaged over what is believed of them: pi(a | b_t) = sum_s b_t(s) pi_t(a | s).

    It keeps the exact filter (`cai.inference.filter_states`), and acts as the policy would in a state drawn from its
    belief. This is not the optimal policy of the partially observable problem: like QMDP (Littman, Cassandra and
    Kaelbling 1995, "Learning policies for partially observable environments: scaling up"), which averages Q values
    where this averages policies, it plans as if the state were seen from now on. So it never acts to learn: an action
    whose only use is what it shows (listening at the tiger's doors) is taken no oftener than where all is known.

    The average runs over nonterminal states: in a terminal state nothing is decided, and one who is still asked to act
    is not there. Actions that are missing in any nonterminal state of positive belief are left out, and the rest
    renormalised.

    Args:
        policy: over the states and actions of the process.
        process: the world as the agent knows it, a `TrajectoryModel` (whose discount its filter counts) or an `MDP`.
        observation_model: what it sees of the states.

    Attributes:
        policy: as given.
        states: the filter, which holds process and observation model.
        t: the time index of the next action.

    Raises:
        TypeError, ValueError: if they do not fit together.
    """

    def __init__(self, policy: Policy, process: MDP | TrajectoryModel, observation_model: ObservationModel) -> None:
        if not isinstance(policy, Policy):
            raise TypeError(
                f"expected a Policy, got {type(policy).__name__}; use extract_policy(posterior) or Policy(table)"
            )
        self.policy = policy
        self.states = StateFilter(process, observation_model)
        mdp = self.states.mdp
        if tuple(policy.action_probs.shape[1:]) != (mdp.num_states, mdp.num_actions):
            raise ValueError(
                f"the policy is for {policy.action_probs.shape[1]} states and {policy.action_probs.shape[2]} actions; "
                f"the process has {mdp.num_states} and {mdp.num_actions}"
            )
        self.reset()

    @property
    def belief(self) -> Tensor:
        """[S], b_t(s) = p(s_t | o_{1:t}, a_{1:t-1})."""
        return self._log_beliefs[0].exp()

    def reset(self, observation: int | str | None = None) -> None:
        """Starts a run, with its first observation if there is one.

        Raises:
            ValueError: if it does not exist, has probability 0, or nothing is observed at first.
        """
        seen = self._observed(observation)
        self._log_beliefs = self.states.start(seen)[0].detach()
        self.t = 0

    def observe(self, action: int | str, observation: int | str | None) -> None:
        """Updates the belief by an action that was taken and what was observed after it (None: nothing was).

        Raises:
            ValueError: if the observation has probability 0, or the action is not available where the state may be.
        """
        taken = torch.tensor([self.states.action_number(action)])
        seen = self._observed(observation)
        self._log_beliefs = self.states.update(self._log_beliefs, taken, seen, self.t)[0].detach()
        self.t += 1

    @property
    def horizon(self) -> int | float:
        """T, the number of steps that the policy on states knows; math.inf if it is stationary."""
        return self.policy.horizon

    def probs(self, beliefs: Any = None, t: int | None = None) -> Tensor:
        """[A], pi(. | b); [N, A] for N beliefs.

        Args:
            beliefs: [S] or [N, S], probabilities of states; the policy's own belief unless given.
            t: the time index (from 0); the policy's own unless given.

        Raises:
            ValueError: if t is beyond the policy's horizon, or no action is left that the policy takes and that exists
                in every state believed possible.
        """
        logs = self._log_beliefs[0] if beliefs is None else safe_log(torch.as_tensor(beliefs, dtype=torch.float64))
        rows = self.action_probs(logs.reshape(-1, logs.shape[-1]), self.t if t is None else t)
        return rows.reshape(*logs.shape[:-1], -1)

    def act(
        self,
        observations: Any = None,
        t: int | None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Tensor:
        """Actions int64 [N] for beliefs [N, S], or 0-dim for one; drawn, or the most probable (the first of equals).

        Args:
            observations: beliefs, as `probs` takes them; the policy's own unless given, which `observe` updates.
            t: the time index (from 0); the policy's own unless given.
            generator: draws the actions; the global one unless given.
            deterministic: whether to take the most probable action.
        """
        rows = self.probs(observations, t)
        return rows.argmax(-1) if deterministic else torch.multinomial(rows, 1, generator=generator)[..., 0]

    def log_prob(self, actions: Any, observations: Any = None, t: int | None = None) -> Tensor:
        """Log pi(a | b) in nats, [N] or 0-dim; beliefs and time as for `probs`."""
        rows, taken = self.probs(observations, t), torch.as_tensor(actions)
        return rows.gather(-1, taken[..., None].expand(*rows.shape[:-1], 1)).log()[..., 0]

    def sample(self, generator: torch.Generator | None = None) -> int:
        """Draws an action by its own belief; `observe` then tells what came of it."""
        return int(self.act(generator=generator))

    def action_probs(self, log_beliefs: Tensor, t: int) -> Tensor:
        """[N, A], pi(. | b) at time index t for N beliefs, given as logarithms [N, S]; errors as `probs`."""
        mdp = self.states.mdp
        if t >= self.policy.horizon:
            raise ValueError(
                f"time index {t} is outside the policy, which knows steps 0 to {int(self.policy.horizon) - 1}; reset() "
                "starts a new run, and horizon=math.inf gives a stationary policy"
            )
        beliefs = log_beliefs.exp()
        living = torch.where(mdp.terminal, torch.zeros_like(beliefs), beliefs)
        decides = living.sum(-1, keepdim=True) > 0
        weights = torch.where(decides, living, beliefs)
        weights = weights / weights.sum(-1, keepdim=True)
        missing = (living > 0).double() @ (~mdp.available).double() > 0
        averaged = weights @ self.policy.action_probs[0 if self.policy.stationary else t]
        kept = torch.where(missing, torch.zeros_like(averaged), averaged)
        total = kept.sum(-1, keepdim=True)
        if (total == 0).any():
            run = int(torch.nonzero(total[:, 0] == 0)[0])
            raise ValueError(self._nothing_left(log_beliefs[run], missing[run], t))
        return kept / total

    def _nothing_left(self, log_beliefs: Tensor, missing: Tensor, t: int) -> str:
        mdp = self.states.mdp
        left = ", ".join(mdp.action_name(a) for a in torch.nonzero(~missing)[:, 0].tolist())
        believed = f"at time index {t} the states believed possible are {self.states.describe(log_beliefs)}"
        if left:
            return (
                f"{believed}, and the policy takes none of the actions that exist in all of them ({left}); give a "
                "policy with probability on these, e.g. kind='stochastic'"
            )
        return (
            f"{believed}, and no action exists in all of them; let an observation tell such states apart, or make "
            "actions available with a row of outcomes (a move into a wall stays)"
        )

    def _observed(self, observation: int | str | None) -> Tensor | None:
        return None if observation is None else torch.tensor([self.states.observation_model.index(observation)])

    def __repr__(self) -> str:
        return f"BeliefPolicy({self.policy!r}, {self.states.mdp!r}, {self.states.observation_model!r})"

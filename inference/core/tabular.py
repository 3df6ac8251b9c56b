"""Answers over numbered states and actions: q's start, policy and dynamics as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cai.inference.core.lazy import lazy, table
from cai.inference.core.memory import require_tables
from cai.inference.core.most_probable import most_probable_trajectory
from cai.inference.core.policy import Policy, policy_classes
from cai.inference.core.posterior import NUMBERS, Posterior
from cai.inference.core.status import Status
from cai.models.common.checks import index_tensor
from cai.models.common.numerics import rounding, safe_log, safe_logsumexp
from cai.models.common.random_draws import seeded
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import sample_chain

if TYPE_CHECKING:
    import xarray

__all__ = ["Dynamics", "TabularPosterior"]

KINDS = ("stochastic", "greedy", "plan")


class Dynamics(Protocol):
    """q(s_{t+1} | s_t, a_t), made step by step when it is asked for.

    Attributes:
        listed: whether outcomes are those that the process lists, [S, A, K]; else they are the next states themselves,
            [S, A, S].
    """

    listed: bool

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """At time index t: probabilities of each outcome with the chain going on, and with its fall [S, A, K or 1]."""

    def divergence(self, t: int) -> Tensor | None:
        """[S, A], KL from the true dynamics at time index t, nats; None where that is not known."""


class TabularPosterior(Posterior):
    """A distribution q over trajectories of numbered states and actions, by its start, policy and dynamics.

    T steps, S states, A actions; index t is time t + 1 of the formulas. With a discount, the rows of `dynamics` and
    `state_marginals` sum to less than 1, and `absorbed` holds the rest. Over an infinite horizon the time axis has
    length 1 and `state_marginals` [1, S] counts expected visits.

    Attributes:
        action_probs: [T, S, A], q(a_t | s_t); the action prior where the row cannot matter.
        action_prior: [S, A], p(a | s); [T, S, A] for a Pyro program, which may change it over time.
        initial: [S], q(s_1).
        state_marginals: [T + 1, S], q(s_t).
        world: q's dynamics.
    """

    action_probs: Tensor
    action_prior: Tensor
    initial: Tensor
    state_marginals: Tensor
    world: Dynamics
    kind = "tabular"
    _stored_axes = {
        **dict.fromkeys(NUMBERS, ""),
        "values": "T S",
        "q_values": "T S A",
        "action_probs": "T S A chances",
        "action_prior": "... S A chances",
        "initial": "S chances",
        "state_marginals": "V S counts",
        "absorbed": "V counts",
    }

    def _axis_lengths(self) -> dict[str, int]:
        mdp = self.mdp
        return {"T": self.steps} | ({} if mdp is None else {"S": mdp.num_states, "A": mdp.num_actions})

    @lazy
    def values(self) -> Tensor | None:
        """[T, S], soft values in reward units; -inf where optimality is impossible. None where they are not known."""
        return None

    @lazy
    def q_values(self) -> Tensor | None:
        """[T, S, A], in reward units; None where they are not known."""
        return None

    @table
    def absorbed(self) -> Tensor:
        """[T + 1], the probability of having fallen into the discount's absorbing state."""
        return torch.zeros_like(self.state_marginals[:, 0])

    # ---- dynamics -----------------------------------------------------------------------------------------------

    @property
    def has_outcomes(self) -> bool:
        """Whether q's dynamics are known outcome by outcome, as the process lists them."""
        return self.world.listed

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """Two [S, A, K]: the chance under q that an outcome happens and the chain goes on, or falls, at time index t.

        Raises:
            NotKnown: if the answer knows next states alone (`has_outcomes` is False).
        """
        if not self.has_outcomes:
            raise self._unknown("the outcomes that the process lists", "ask 'exact' or 'variational'")
        with self._recording():
            return self.world.outcomes(self._time(t))

    def dynamics(self, t: int) -> Tensor:
        """[S, A, S], q(s_{t+1} | s_t, a_t) at time index t; dense, and built anew on each call.

        Rows sum to less than 1 with a discount. Rows that q never visits hold the true dynamics where these are known.

        Raises:
            IndexError: if t is not a time index of the answer.
            TooLarge: naming the bytes, if the table does not fit into the memory that there is.
        """
        time, listed = self._time(t), self.mdp if self.has_outcomes else None
        what = (f"dynamics({t})", f"ask outcomes({t}) instead, [S, A, K], whose next states are mdp.next_states")
        if listed is not None and listed.next_states is not None:
            listed.require_dense(*what)
        with self._recording():
            alive, _ = self.world.outcomes(time)
        return alive if listed is None else listed.to_next_states(alive, *what)

    def luck_map(self, t: int) -> Tensor:
        """[S, A], KL of q(s_{t+1} | s_t, a_t) from the true dynamics at time index t, in nats.

        Raises:
            NotKnown: if the backend does not know it.
        """
        with self._recording():
            found = self.world.divergence(self._time(t))
        if found is None:
            raise self._unknown("its luck step by step", "use 'exact'")
        return found

    def luck_by_state(self) -> Tensor:
        """[S], the luck assumed in each state, summed over time along q, in nats; with that of the start it is `luck`.

        Raises:
            NotKnown: if the backend does not know it.
        """
        policy, marginals = self.action_probs, self.state_marginals
        total = torch.zeros_like(policy[0, :, 0])
        for t in range(self.steps):
            total = total + marginals[t] * (policy[t] * self.luck_map(t)).sum(-1)
        return total.detach()

    def _time(self, t: int) -> int:
        steps = self.steps
        if not -steps <= t < steps:
            raise IndexError(f"time index {t} is outside the answer; it has indices 0 to {steps - 1}")
        return t % steps

    # ---- trajectories -------------------------------------------------------------------------------------------

    def policy(self, kind: str = "stochastic") -> Policy:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")
        if self.status in (Status.DIVERGED, Status.IMPOSSIBLE, Status.DEGENERATE, Status.OUT_OF_RANGE):
            raise ValueError(f"the posterior of {self.backend!r} holds no policy: {self.status}")
        if isinstance(self.model, TrajectoryModel):
            require_tables(self.model, "a policy", 4)  # copied, checked, and made ready to act
        probs, mdp = self.action_probs.detach(), self.mdp
        if kind != "stochastic":
            probs = torch.nn.functional.one_hot(self._most_probable_actions(probs), probs.shape[-1]).double()
        return policy_classes["table"](
            self._planned(probs) if kind == "plan" else probs,
            stationary=self.horizon == math.inf,
            state_names=tuple(mdp.state_names) if mdp and mdp.state_names else None,
            action_names=tuple(mdp.action_names) if mdp and mdp.action_names else None,
            source=self.backend,
            metadata={"kind": kind, "target": str(self.target), "horizon": str(self.horizon)},
        )

    def _most_probable_actions(self, probs: Tensor) -> Tensor:
        """[T, S], the most probable action of each row [T, S, A]; of equals up to rounding the first."""
        return (probs >= (1 - rounding(probs)) * probs.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)

    def _planned(self, greedy: Tensor) -> Tensor:
        """[T, S, A], the actions of the most probable trajectory in every state; greedy where it says nothing.

        It says nothing after the trajectory has ended, and in states where the planned action is not available.
        """
        states, actions, _ = most_probable_trajectory(self)
        mdp, plan = self.mdp, greedy.clone()
        for t, (state, action) in enumerate(zip(states.tolist(), actions.tolist(), strict=False)):
            if state == greedy.shape[1] or (mdp is not None and bool(mdp.terminal[state])):
                break
            played = torch.ones(greedy.shape[1], dtype=torch.bool) if mdp is None else mdp.available[:, action]
            plan[t, played] = torch.nn.functional.one_hot(torch.tensor(action), greedy.shape[-1]).double()
        return plan

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if latents and self._further():
            raise self._unknown("how to draw further latents", "ask 'enumeration'")
        if self.horizon == math.inf:
            raise ValueError("trajectories of an infinite horizon have no end; extract the policy and roll it out")
        listed = self.mdp.next_states if self.mdp is not None and self.has_outcomes else None
        generator = seeded(seed)
        rows = self.action_probs.__getitem__
        states, actions = sample_chain(self.initial, rows, self._moves, listed, self.steps, num_samples, generator)
        return states, actions, {}

    def _moves(self, t: int) -> tuple[Tensor, Tensor]:
        """At time index t: weights [S, A, K] of the outcomes, and [S, A] of a fall."""
        alive, fallen = self.world.outcomes(t)
        return alive, fallen.sum(-1)

    def _score(self, states: Any, actions: Any) -> Tensor:
        return self._score_tables(*self._checked(states, actions))

    def _checked(self, states: Any, actions: Any) -> tuple[Tensor, Tensor]:
        """The indices as int64 tensors; refuses what `sample` could not have returned."""
        num_states, num_actions = self.action_prior.shape[-2:]
        states, actions = index_tensor(states, "states"), index_tensor(actions, "actions")
        falls = isinstance(self.model, TrajectoryModel) and self.model.discount < 1
        absorbing = " (S is the absorbing state)" if falls else ""
        for what, found, width in (("states", states, self._state_times), ("actions", actions, self.steps)):
            if found.dim() != 2 or found.shape[1] != width:
                raise ValueError(
                    f"{what} has shape {list(found.shape)}; expected [N, {width}], a row for each trajectory as "
                    "Posterior.sample returns them"
                )
        if states.shape[0] != actions.shape[0] or not len(states):
            raise ValueError(
                f"there are {states.shape[0]} rows of states and {actions.shape[0]} of actions; give as many, one at "
                "least"
            )
        for what, found, size in (("states", states, num_states + falls), ("actions", actions, num_actions)):
            outside = (found < 0) | (found >= size)
            if bool(outside.any()):
                row, t = torch.nonzero(outside)[0].tolist()
                note = absorbing if what == "states" else ""
                raise ValueError(f"{what}[{row}, {t}] is {int(found[row, t])}; expected 0 to {size - 1}{note}")
        return states, actions

    def _score_tables(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N], log q(s_1) + sum_t log q(a_t | s_t) + log q(s_{t+1} | s_t, a_t), from start, policy and dynamics."""
        num_states, num_actions = self.action_prior.shape[-2:]
        start = self._log_start()
        never = start.new_full((), -torch.inf)
        total = torch.cat([start, never[None]])[states[:, 0]]
        for t in range(actions.shape[1]):
            state, action = states[:, t], actions[:, t]
            inside, absorbed = state.clamp(max=num_states - 1), state == num_states
            total = total + torch.where(absorbed, -math.log(num_actions), self._log_policy(t)[inside, action])
            if t + 1 < states.shape[1]:
                following = states[:, t + 1]
                moved = self._log_transition(t, inside, action, following)
                stays = torch.where(following == num_states, torch.zeros_like(never), never)
                total = total + torch.where(absorbed, stays, moved)
        return total

    def _log_start(self) -> Tensor:
        """[S], log q(s_1) in nats."""
        return safe_log(self.initial)

    def _log_policy(self, t: int) -> Tensor:
        """[S, A], log q(a_t | s_t) in nats at time index t."""
        return safe_log(self.action_probs[t])

    def _log_outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """Logs of the outcomes [S, A, K] of step t, and of those that end in a fall, in nats."""
        alive, fallen = self.world.outcomes(t)
        return safe_log(alive), safe_log(fallen)

    def _log_transition(self, t: int, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """[N], log q(s_{t+1} | s_t, a_t) out of a state 0..S-1; never dense where the outcomes are listed."""
        num_states = self.action_prior.shape[-2]
        inside, falls = following.clamp(max=num_states - 1), following == num_states
        alive, fallen = (part[state, action] for part in self._log_outcomes(t))
        if self.mdp is None or self.mdp.next_states is None or not self.has_outcomes:
            moved = alive.gather(-1, inside[:, None])[:, 0]
        else:
            reached = self.mdp.next_states[state, action] == inside[:, None]
            moved = safe_logsumexp(torch.where(reached, alive, -torch.inf))
        return torch.where(falls, safe_logsumexp(fallen) if fallen.shape[-1] else -torch.inf, moved)

    # ---- marginals ----------------------------------------------------------------------------------------------

    def _further(self) -> tuple[str, ...]:
        """The further latents."""
        outcomes = isinstance(self.model, TrajectoryModel) and self.has_outcomes and self.model.has_outcome_sites
        return tuple(f"k_{t}" for t in range(1, self.steps + 1)) if outcomes else ()

    @property
    def sites(self) -> tuple[str, ...]:
        return super().sites + self._further()

    def _marginal(self, kind: str, t: int) -> Tensor:
        if kind == "s":
            return self.initial if t == 1 else self.state_marginals[t - 1]
        taken = self.state_marginals[t - 1] @ self.action_probs[t - 1]
        return taken + self.absorbed[t - 1] / len(taken)

    def _further_marginal(self, site: str) -> Tensor:
        if not self.has_outcomes:
            return super()._further_marginal(site)
        t = int(site[2:]) - 1
        joint = (self.state_marginals[t][:, None] * self.action_probs[t])[..., None]
        found = (joint * torch.stack(torch.broadcast_tensors(*self.world.outcomes(t))).sum(0)).sum((0, 1))
        return torch.cat([found[:1] + self.absorbed[t], found[1:]])  # the absorbing state's outcome is the first

    def to_xarray(self) -> xarray.Dataset:
        """The tables with named axes: dims time, state, action; numbers as attributes.

        `state_marginals` and `absorbed` have the longer axis `time_of_state`, which ends at T + 1.
        """
        import xarray

        mdp = self.mdp
        num_states, num_actions = self.action_prior.shape[-2:]
        coordinates = {
            "time": list(range(1, self.steps + 1)),
            "time_of_state": list(range(1, self.state_marginals.shape[0] + 1)),
            "state": [mdp.state_name(s) if mdp else str(s) for s in range(num_states)],
            "action": [mdp.action_name(a) if mdp else str(a) for a in range(num_actions)],
        }
        axes = {
            "values": ("time", "state"),
            "q_values": ("time", "state", "action"),
            "action_probs": ("time", "state", "action"),
            "action_prior": ("time", "state", "action")[-self.action_prior.dim() :],
            "initial": ("state",),
            "state_marginals": ("time_of_state", "state"),
            "absorbed": ("time_of_state",),
        }
        known = {name: part for name in axes if (part := getattr(self, name)) is not None}
        tables = {name: (axes[name], part.detach().cpu().numpy()) for name, part in known.items()}
        return xarray.Dataset(tables, coords=coordinates, attrs=self._xarray_attributes())

"""Policies on numbered states and actions: what a posterior says to do, ready to act in the world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cai.inference.core.policy import TablePolicy, policy_classes
from cai.inference.core.posterior import Posterior
from cai.models.common.storage import load, storable
from cai.policies.environments import Runs, check_discrete

if TYPE_CHECKING:
    from cai.models.processes.mdp import MDP
    from cai.models.processes.observation import ObservationModel
    from cai.models.trajectory.model import TrajectoryModel
    from cai.policies.belief import BeliefPolicy

__all__ = ["Policy", "extract_policy"]

KIND = "policy"


@storable(KIND)
@dataclass(frozen=True, eq=False, repr=False)
class Policy(TablePolicy, Runs):
    """pi(a_t | s_t), for each time or stationary.

    Args:
        action_probs: [T, S, A], or [S, A] for a stationary policy.
        stationary: whether the one table serves every time (True if the table has no time axis).
        state_names: S names, or None.
        action_names: A names, or None.
        source: the backend that it came from, for tables.
        metadata: further words to keep with it.

    Raises:
        ValueError: if rows are no distributions, or a stationary policy has more than one table.
    """

    def sample(self, state: int | str, t: int = 0, *, generator: torch.Generator | None = None) -> int:
        """Draws an action in one state, given by number or name."""
        return int(self.act(state, t, generator=generator))

    def greedy(self, state: int | str, t: int = 0) -> int:
        """The most probable action in one state; the first of equals."""
        return int(self.act(state, t, deterministic=True))

    def filtered(self, process: MDP | TrajectoryModel, observation_model: ObservationModel) -> BeliefPolicy:
        """This policy where the state is hidden: it keeps a filter, and acts on what it believes.

        Args:
            process: the world as the agent knows it.
            observation_model: what it sees of the states.
        """
        from cai.policies.belief import BeliefPolicy

        return BeliefPolicy(self, process, observation_model)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a policy, or damaged.
        """
        found: Policy = load(path, expected=KIND)
        return found

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        _, num_states, num_actions = self.action_probs.shape
        # A model of an environment may have one absorbing state more, which never shows.
        sizes = range(max(1, num_states - 1), num_states + 1)
        check_discrete("observation", observations, sizes, f"the policy is for {num_states} numbered states")
        check_discrete(
            "action", actions, range(num_actions, num_actions + 1), f"the policy is for {num_actions} actions"
        )

    def _repr_html_(self) -> str:
        """The kind and the sizes, and the first rows of the first table."""
        from html import escape

        _, num_states, num_actions = self.action_probs.shape
        actions = self.action_names or tuple(map(str, range(num_actions)))
        head = "".join(f"<th>{escape(name)}</th>" for name in actions[:HTML_COLUMNS])
        lines = []
        for state in range(min(num_states, HTML_ROWS)):
            name = self.state_names[state] if self.state_names else str(state)
            cells = "".join(f"<td>{p:.3g}</td>" for p in self.action_probs[0, state, :HTML_COLUMNS].tolist())
            lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
        when = "at every time" if self.stationary else f"at t = 1 of {self.horizon}"
        more = f"; the first {HTML_ROWS} of {num_states} states" if num_states > HTML_ROWS else ""
        title = f"Policy of {escape(self.source or 'a table')}: action probabilities {when}{more}"
        return f"<table><caption>{title}</caption><tr><th>state</th>{head}</tr>{''.join(lines)}</table>"


HTML_ROWS, HTML_COLUMNS = 12, 12


def extract_policy(posterior: Posterior, kind: str = "stochastic") -> Any:
    """The policy of a posterior: a `Policy` where it has tables, a `ParticlePolicy` where it is particles alone.

    Args:
        posterior: from `cai.infer`.
        kind: "stochastic", q(a_t | s_t) itself (Levine 2018, equation 16 for fixed dynamics); "greedy", its most
            probable action with certainty, the first of equals; "plan", the actions of q's most probable trajectory
            in their order, whatever happens (open loop). Where a planned action is not available, and after the
            planned trajectory has ended, a plan acts greedily.

    Raises:
        ValueError: if there is no such kind, or the posterior holds no answer (for a plan: none over a finite horizon).
    """
    if not isinstance(posterior, Posterior):
        raise TypeError(f"expected the posterior that cai.infer returns, got {type(posterior).__name__}")
    return posterior.policy(kind)


policy_classes["table"] = Policy  # what posteriors make

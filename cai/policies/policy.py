"""Policies: what a posterior says to do, ready to act in the world."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cai.inference.core.policy import policy_classes
from cai.inference.core.posterior import Posterior
from cai.models.common.checks import check_distribution, float_tensor

if TYPE_CHECKING:
    from cai.models.processes.mdp import MDP
    from cai.models.processes.observation import ObservationModel
    from cai.models.trajectory.model import TrajectoryModel
    from cai.policies.belief import BeliefPolicy

__all__ = ["Policy", "extract_policy"]

FORMAT = "cai-policy-1"


@dataclass(frozen=True, eq=False)
class Policy:
    """pi(a_t | s_t), for each time or stationary.

    Args:
        action_probs: [T, S, A], or [S, A] for a stationary policy.
        stationary: whether the one table serves every time (True if the table has no time axis).
        state_names: S names, or None.
        action_names: A names, or None.
        source: the backend that it came from, for tables.

    Raises:
        ValueError: if rows are no distributions, or a stationary policy has more than one table.
    """

    action_probs: Any
    stationary: bool = False
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    source: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table, source = float_tensor(self.action_probs, "action_probs")
        if table.dim() == 2:
            table = table[None]
            object.__setattr__(self, "stationary", True)
        if table.dim() != 3 or 0 in table.shape:
            raise ValueError(f"action_probs has shape {list(table.shape)}; expected [T, S, A] or [S, A]")
        if self.stationary and table.shape[0] != 1:
            raise ValueError(f"a stationary policy has one table; action_probs has {table.shape[0]} of them")
        table = check_distribution(table.detach(), "action_probs", source)
        object.__setattr__(self, "action_probs", table)
        for what, axis in (("state_names", 1), ("action_names", 2)):
            names = getattr(self, what)
            if names is not None:
                if len(names) != table.shape[axis]:
                    raise ValueError(f"{what} holds {len(names)} names; the policy has {table.shape[axis]}")
                object.__setattr__(self, what, tuple(str(name) for name in names))

    @property
    def horizon(self) -> int | float:
        """T, the number of steps that it knows; math.inf if stationary."""
        return math.inf if self.stationary else int(self.action_probs.shape[0])

    def probs(self, state: int | str, t: int = 0) -> Tensor:
        """[A], pi(. | s) at time index t (from 0)."""
        return self.action_probs[self._time(t), self._state(state)]

    def sample(self, state: int | str, t: int = 0, *, generator: torch.Generator | None = None) -> int:
        """Draws an action."""
        return int(torch.multinomial(self.probs(state, t), 1, generator=generator))

    def greedy(self, state: int | str, t: int = 0) -> int:
        """The most probable action; the first of equals."""
        return int(self.probs(state, t).argmax())

    def run(
        self, environment: Any, *, seed: int | None = None, max_steps: int | None = None
    ) -> tuple[float, int, bool]:
        """Acts in a Gymnasium environment with discrete observations for one episode.

        Args:
            environment: with states as this policy numbers them (an added absorbing state never shows).
            seed: of the environment's reset and of the actions.
            max_steps: stop after so many steps; a policy over T steps stops after T in any case.

        Returns:
            The sum of rewards, the number of steps, and whether the episode terminated.
        """
        if not hasattr(environment, "reset") or not hasattr(environment, "step"):
            raise TypeError(f"expected a Gymnasium environment, got {environment!r}; make it with gymnasium.make(...)")
        if not hasattr(environment.observation_space, "n"):
            raise ValueError(
                f"the environment observes {environment.observation_space}; a policy on numbered states needs Discrete"
            )
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        observation, _ = environment.reset(seed=seed)
        limit = min(self.horizon, math.inf if max_steps is None else max_steps)
        total, t = 0.0, 0
        while t < limit:
            action = self.sample(int(observation), t, generator=generator)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, t = total + float(reward), t + 1
            if terminated or truncated:
                return total, t, bool(terminated)
        return total, t, False

    def filtered(self, process: MDP | TrajectoryModel, observation_model: ObservationModel) -> BeliefPolicy:
        """This policy where the state is hidden: it keeps a filter, and acts on what it believes.

        Args:
            process: the world as the agent knows it.
            observation_model: what it sees of the states.
        """
        from cai.policies.belief import BeliefPolicy

        return BeliefPolicy(self, process, observation_model)

    def save(self, path: str | Path) -> Path:
        """Writes a safetensors file with the table, the names and the metadata; returns its path."""
        header = {
            "format": FORMAT,
            "stationary": json.dumps(self.stationary),
            "state_names": json.dumps(self.state_names),
            "action_names": json.dumps(self.action_names),
            "source": self.source,
            "metadata": json.dumps(self.metadata),
        }
        if not Path(path).parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {str(Path(path).parent)!r} to save the policy in; make it first"
            )
        save_file({"action_probs": self.action_probs.contiguous()}, str(path), metadata=header)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a policy.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r} to load a policy from")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError(f"{str(path)!r} holds no policy of format {FORMAT}; write one with Policy.save")
                table = file.get_tensor("action_probs")
            fields = {key: header[key] for key in ("stationary", "state_names", "action_names", "source", "metadata")}
            source = fields.pop("source")
            return cls(table, source=source, **{key: json.loads(value) for key, value in fields.items()})
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} is no safetensors file ({error}); write one with Policy.save") from None
        except (KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"the header of {str(path)!r} is damaged ({error!r}); write it with Policy.save") from None

    def _time(self, t: int) -> int:
        if self.stationary:
            return 0
        if not 0 <= t < self.action_probs.shape[0]:
            raise ValueError(
                f"time index {t} is outside the policy, which knows steps 0 to {self.action_probs.shape[0] - 1}; "
                "infer with a longer horizon, or with horizon=math.inf for a stationary policy"
            )
        return t

    def __repr__(self) -> str:
        _, num_states, num_actions = self.action_probs.shape
        return f"Policy(T={self.horizon}, S={num_states}, A={num_actions}, source={self.source!r})"

    def _state(self, state: int | str) -> int:
        if isinstance(state, str):
            if self.state_names is None or state not in self.state_names:
                raise ValueError(f"no state is called {state!r} in this policy; give its number")
            return self.state_names.index(state)
        if not 0 <= state < self.action_probs.shape[1]:
            raise ValueError(
                f"state {state} does not exist; the policy knows states 0 to {self.action_probs.shape[1] - 1}"
            )
        return int(state)


def extract_policy(posterior: Posterior, kind: Literal["stochastic", "greedy", "plan"] = "stochastic") -> Policy:
    """The policy of a posterior.

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
    return posterior.policy(kind)  # type: ignore[return-value]


policy_classes["table"] = Policy  # what posteriors make

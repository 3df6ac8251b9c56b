"""A decision problem on continuous states and actions, written as functions of state, action and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor

from cai.models.common.checks import FORGOTTEN, float_tensor
from cai.models.common.storage import storable
from cai.models.continuous.distributions import as_pyro, gaussian, in_double
from cai.models.continuous.matrices import at_time
from cai.models.continuous.numbers import read_numbers
from cai.models.continuous.priors import Flat, LinearNormal, prior_parts
from cai.models.continuous.probe import find_action_dim, probe
from cai.models.continuous.world import World

__all__ = ["ContinuousModel"]


@storable("continuous-model")
@dataclass(frozen=True, eq=False, repr=False)
class ContinuousModel(World):
    """A start, dynamics, a reward and a horizon, as functions. Calling it runs the Pyro program.

    Sites are `s_1, a_1, O_1, s_2, ..., s_{T+1}`, states vectors [n], actions [m]. The functions are called on whole
    tensors, states [..., n] and actions [..., m] with any leading axes, and must keep them. The final reward is paid
    with the last step, by its outcome s_{T+1}, to a chain that has not ended before.

    Args:
        initial: p(s_1), a Pyro distribution of event shape [n]; or a tensor [n], a start that is certain.
        dynamics: (s, a, t) -> a Pyro distribution of batch shape [...] and event shape [n], or a tensor [..., n] where
            the next state is certain.
        reward: (s, a, t) -> [...], in reward units, of a step that is begun in s; -inf forbids.
        horizon: T >= 1.
        action_prior: `LinearNormal(K0, k0, L)`; `Flat()`, Lebesgue measure; or (s, t) -> a Pyro distribution of event
            shape [m].
        final_reward: (s) -> [...], of s_{T+1}; none unless given.
        temperature: alpha > 0, in reward units per nat.
        discount: in (0, 1]; after each step the chain ends with probability 1 - discount, its reward paid.
        terminal: (s) -> bool [...], states that are not left and pay nothing; what is earned there is paid on entry.
        name: for tables and pictures.

    Raises:
        TypeError, ValueError: if a function fails, drops an axis, adds one, returns an array of NumPy, NaN or a reward
            of +inf: each is tried on a few states and actions that the model itself draws. Also on bad numbers.
    """

    initial: Any
    dynamics: Any
    reward: Any
    horizon: int | float = FORGOTTEN
    action_prior: Any = None
    final_reward: Any = None
    temperature: Any = 1.0
    discount: float = 1.0
    terminal: Any = None
    name: str = "model"
    state_dim: int = field(init=False)
    action_dim: int = field(init=False)
    batch_shape: torch.Size = field(init=False)
    criterion: str = field(init=False)

    def __post_init__(self) -> None:
        put = self._put
        put("batch_shape", torch.Size())
        put("criterion", "total")
        read_numbers(self)
        if self.horizon == math.inf:
            raise ValueError(
                "the horizon is infinite; a ContinuousModel has finitely many steps: give horizon=N (a stationary "
                "answer is known for a LinearGaussianModel, and for discretize(model, ...) as a TrajectoryModel)"
            )
        for name in ("dynamics", "reward", "final_reward", "terminal"):
            value = getattr(self, name)
            if not callable(value) and not (value is None and name in ("final_reward", "terminal")):
                raise TypeError(f"{name} is a {type(value).__name__}; expected a function of {ARGUMENTS[name]}")
        put("initial", _read_initial(self.initial))
        shape = self.initial.shape if isinstance(self.initial, Tensor) else self.initial.event_shape
        put("state_dim", int(shape[0]))
        put("action_dim", find_action_dim(self))
        if isinstance(self.action_prior, LinearNormal):
            put("action_prior", self.action_prior.fitted(self.state_dim, self.action_dim, self.horizon))
            batch = {
                name: list(p.shape[: max(0, p.dim() - a - 1)])
                for name, (p, a) in prior_parts(self.action_prior).items()
            }
            if any(batch.values()):
                raise ValueError(f"the action prior has batch axes {batch}; a ContinuousModel is a single problem")
        probe(self)

    def start_distribution(self) -> TorchDistribution:
        if isinstance(self.initial, Tensor):
            return Delta(self.initial, event_dim=1, validate_args=False)
        return self.initial

    def prior(self, state: Tensor, t: int) -> TorchDistribution:
        given = self.action_prior
        if isinstance(given, Flat):
            raise ValueError("the action prior is Flat(), from which no action can be drawn")
        if isinstance(given, LinearNormal):
            K0, k0, L = (at_time(part, axes, t, self.batch_shape) for part, axes in prior_parts(given).values())
            timed = given.L.dim() > 2 and given.L.shape[-3] > 1
            return gaussian((K0 @ state[..., None])[..., 0] + k0, L, self.root(f"prior {t if timed else 0}", L))
        found = in_double(as_pyro(given(state, t)), "action_prior")
        lead = state.shape[:-1]
        return found if found.batch_shape == lead else found.expand(lead)

    def transition(self, state: Tensor, action: Tensor, t: int) -> TorchDistribution:
        moved = self.dynamics(state, action, t)
        if isinstance(moved, Tensor):
            return Delta(moved.double(), event_dim=1, validate_args=False)
        return in_double(as_pyro(moved), "dynamics")

    def step_reward(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        return self.reward(state, action, t)

    def last_reward(self, state: Tensor) -> Tensor | None:
        return None if self.final_reward is None else self.final_reward(state)

    def has_ended(self, state: Tensor) -> Tensor | None:
        return None if self.terminal is None else self.terminal(state)

    def _facts(self) -> dict[str, Any]:
        return {
            "dynamics": _called(self.dynamics),
            "reward": _called(self.reward),
            "final reward": "none" if self.final_reward is None else _called(self.final_reward),
            "terminal states": "none" if self.terminal is None else _called(self.terminal),
        }

    @property
    def is_deterministic(self) -> bool:
        """Whether the dynamics return tensors, so that the next state is certain; as tried on one state."""
        state, action = torch.zeros(1, self.state_dim).double(), torch.zeros(1, self.action_dim).double()
        return isinstance(self.dynamics(state, action, 0), Tensor)


def _called(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


ARGUMENTS = {
    "dynamics": "(s, a, t)",
    "reward": "(s, a, t)",
    "final_reward": "(s)",
    "terminal": "(s)",
}


def _read_initial(initial: Any) -> Any:
    """A tensor [n], or a distribution of vectors."""
    if isinstance(initial, TorchDistribution) or hasattr(initial, "event_shape"):
        if len(initial.event_shape) != 1 or len(initial.batch_shape):
            raise ValueError(
                f"initial has batch shape {list(initial.batch_shape)} and event shape {list(initial.event_shape)}; "
                "expected [] and [n], one vector: add .to_event(1)"
            )
        return in_double(as_pyro(initial), "initial")
    tensor, _ = float_tensor(initial, "initial")
    if tensor.dim() != 1 or not len(tensor):
        raise ValueError(f"initial has shape {list(tensor.shape)}; expected [n], the first state, or a distribution")
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise ValueError("initial holds NaN or inf; give finite numbers")
    return tensor

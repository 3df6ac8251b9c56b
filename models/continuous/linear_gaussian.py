"""The linear-Gaussian model: linear dynamics, Gaussian noise, a quadratic reward; every message is a quadratic."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from cai.models.common.checks import FORGOTTEN, float_tensor
from cai.models.common.devices import place_tensor, resolve_place
from cai.models.common.numerics import plain_number
from cai.models.common.storage import storable
from cai.models.continuous.distributions import gaussian
from cai.models.continuous.matrices import at_time, batch_shape, check_covariance, read_matrix
from cai.models.continuous.numbers import read_numbers
from cai.models.continuous.priors import Flat, LinearNormal, prior_parts
from cai.models.continuous.quadratic import AXES, FINAL, QuadraticReward, quadratic_form
from cai.models.continuous.world import World

__all__ = ["Gaussian", "LinearGaussianModel", "LinearStep"]


@storable("gaussian")
class Gaussian(NamedTuple):
    """A Gaussian distribution of a vector.

    Attributes:
        mean: [..., n].
        covariance: [..., n, n], which may be singular or zero.
    """

    mean: Tensor
    covariance: Tensor


class LinearStep(NamedTuple):
    """All matrices of one step, with the batch axes of the model in front; costs in reward units.

    Attributes:
        A: [..., n, n], and B: [..., n, m], offset: [..., n], noise: [..., n, n], of
            s' = A s + B a + offset + N(0, noise).
        Q: [..., n, n], R: [..., m, m], N: [..., n, m], q: [..., n], r: [..., m] and const: [...], the costs.
        K0: [..., m, n], k0: [..., m] and L: [..., m, m], the action prior's; None each where it is `Flat()`.
    """

    A: Tensor
    B: Tensor
    offset: Tensor
    noise: Tensor
    Q: Tensor
    R: Tensor
    N: Tensor
    q: Tensor
    r: Tensor
    const: Tensor
    K0: Tensor | None
    k0: Tensor | None
    L: Tensor | None


def _stored(model: LinearGaussianModel) -> dict[str, Any]:
    """What a file keeps of a model: the arguments of the one in float64."""
    parts = {entry.name: getattr(model.host, entry.name) for entry in fields(model) if entry.init}
    return parts | {"temperature": plain_number(model.host.temperature)}


@storable("linear-gaussian-model", pack=_stored)
@dataclass(frozen=True, eq=False, repr=False)
class LinearGaussianModel(World):
    """Linear dynamics with Gaussian noise, a quadratic reward and a horizon. Calling it runs the Pyro program.

        s_1 ~ N(m1, S1),   s_{t+1} = A s_t + B a_t + offset + N(0, noise),   a_t ~ N(K0 s_t + k0, L)

    Sites are `s_1, a_1, O_1, s_2, ..., s_{T+1}`, states vectors [n], actions [m]. The final reward is paid with the
    last step, by its outcome s_{T+1}, and so before a discount takes the chain away.

    A matrix [n, n] is constant. With more axes, the axis before the matrix axes is time (T or 1), and those before it
    are batch: a batch of constants is [B, 1, n, n]. `initial` and the final reward have no time axis. Batch axes of all
    parts broadcast. Tensors that require grad keep their history.

    Args:
        A: [..., n, n].
        B: [..., n, m].
        noise: W [..., n, n], the covariance of the noise of a step; may be singular, zero unless given.
        offset: c [..., n]; zero unless given.
        initial: (m1 [..., n], S1 [..., n, n]), mean and covariance of s_1; S1 may be singular. An array m1 alone is a
            start that is certain.
        horizon: T >= 1, or math.inf for a stationary answer.
        temperature: alpha > 0, in reward units per nat; a 0-dim tensor that requires grad keeps its history.
        discount: in (0, 1]; after each step the chain ends with probability 1 - discount, its reward paid.
        reward: a `QuadraticReward`; zero unless given.
        action_prior: `LinearNormal(K0, k0, L)`, or `Flat()` for Lebesgue measure.
        criterion: "total", sums of rewards; or "average", what a step earns in the long run: infinite horizon and no
            discount, numbers of an answer are then per step.
        name: for tables and pictures.

    Raises:
        ValueError, TypeError: on wrong shapes, NaN, a covariance that is asymmetric or has a negative eigenvalue, a
            singular L, a horizon below 1, a temperature <= 0; the message names the matrix, the member and the step.
    """

    A: Any
    B: Any
    noise: Any = None
    offset: Any = None
    initial: Any = None
    horizon: int | float = FORGOTTEN
    temperature: Any = 1.0
    discount: float = 1.0
    reward: Any = None
    action_prior: Any = None
    criterion: Literal["total", "average"] = "total"
    name: str = "model"
    state_dim: int = field(init=False)
    action_dim: int = field(init=False)
    batch_shape: torch.Size = field(init=False)

    def __post_init__(self) -> None:
        put = self._put
        read_numbers(self)
        n, m = _sizes(self.A, self.B)
        put("state_dim", n)
        put("action_dim", m)
        sizes = {"n": n, "m": m}
        put("A", read_matrix(self.A, "A", "n n", sizes, self.horizon)[0])
        put("B", read_matrix(self.B, "B", "n m", sizes, self.horizon)[0])
        noise, rounding = read_matrix(_given(self.noise, self.A.new_zeros(n, n)), "noise", "n n", sizes, self.horizon)
        put("noise", check_covariance(noise, "noise", rounding, self.horizon))
        put("offset", read_matrix(_given(self.offset, self.A.new_zeros(n)), "offset", "n", sizes, self.horizon)[0])
        put("initial", _read_initial(self.initial, n))
        reward = QuadraticReward() if self.reward is None else self.reward
        if not isinstance(reward, QuadraticReward):
            raise TypeError(
                f"the reward is a {type(reward).__name__}; a LinearGaussianModel takes a QuadraticReward (any other "
                "reward makes a ContinuousModel)"
            )
        if self.horizon == math.inf and reward.has_final:
            raise ValueError("the horizon is infinite, and a final reward is never paid; leave out final")
        put("reward", reward.fitted(n, m, self.horizon))
        put("action_prior", _read_prior(self.action_prior, n, m, self.horizon))
        put("batch_shape", batch_shape(self._parts()))

    def _parts(self) -> dict[str, tuple[Tensor, int]]:
        """Every tensor by name, with the number of its axes that are not batch: those of the matrix, and time."""
        reward, parts = self.reward, {"A": (self.A, 2), "B": (self.B, 2), "noise": (self.noise, 2)}
        parts |= {"offset": (self.offset, 1)}
        parts |= {name: (getattr(reward, name), len(axes.split())) for name, axes in AXES.items()}
        parts |= prior_parts(self.action_prior)
        timed = {name: (tensor, axes + 1) for name, (tensor, axes) in parts.items()}
        final = zip(FINAL.items(), reward.final, strict=True)
        return (
            timed
            | {"initial mean": (self.initial.mean, 1), "initial covariance": (self.initial.covariance, 2)}
            | {f"the final reward's {name}": (tensor, len(axes.split())) for (name, axes), tensor in final}
        )

    # ---- where it lives -----------------------------------------------------------------------------------------

    @property
    def host(self) -> LinearGaussianModel:
        held: LinearGaussianModel = self.__dict__.get("_host", self)
        return held

    @property
    def device(self) -> torch.device:
        return self.A.device

    @property
    def dtype(self) -> torch.dtype:
        return self.A.dtype

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> LinearGaussianModel:
        """The same model with its tensors on another device or in another dtype, converted from the float64 original.

        `exact`, `variational`, `risk` and `max-product` answer there over a finite horizon. Programs, simulation,
        evaluation, searches and infinite horizons read the float64 original, `host`.

        Args:
            device: a `torch.device` or its name, e.g. "cuda"; the present one unless given.
            dtype: torch.float64 or torch.float32; the present one unless given.

        Raises:
            TypeError, ValueError: if there is no such device here, the dtype is another one, or too short for a number.
        """
        place, host = resolve_place(device, dtype, (self.device, self.dtype)), self.host
        for known in (self, host):
            if place == (known.device, known.dtype):
                return known
        moved = copy.copy(host)
        parts = {name: place_tensor(tensor, *place, name) for name, (tensor, _) in host._parts().items()}
        reward, prior = copy.copy(host.reward), copy.copy(host.action_prior)
        for target, names in ((moved, OWN_AXES), (reward, AXES), (prior, prior_parts(prior))):
            for name in names:
                object.__setattr__(target, name, parts[name])
        object.__setattr__(reward, "final", tuple(parts[f"the final reward's {name}"] for name in FINAL))
        start = Gaussian(parts["initial mean"], parts["initial covariance"])
        for name, value in (("reward", reward), ("action_prior", prior), ("initial", start), ("_host", host)):
            object.__setattr__(moved, name, value)
        moved.__dict__.pop("_held", None)
        return moved

    def replace(self, **changes: Any) -> LinearGaussianModel:
        if self.host is self:
            return super().replace(**changes)
        return self.host.replace(**changes).to(self.device, self.dtype)

    # ---- what backends read -------------------------------------------------------------------------------------

    @cached_property
    def is_time_varying(self) -> bool:
        """Whether any part has a time axis of T > 1 steps; else all steps are alike."""
        tensors = [(getattr(self, name), axes) for name, axes in (("A", 2), ("B", 2), ("noise", 2), ("offset", 1))]
        tensors += [(getattr(self.reward, name), len(axes.split())) for name, axes in AXES.items()]
        tensors += list(prior_parts(self.action_prior).values())
        return any(tensor.dim() > axes and tensor.shape[-axes - 1] > 1 for tensor, axes in tensors)

    def matrices(self, t: int) -> LinearStep:
        """All matrices of the step at time index t, expanded to the batch axes of the model.

        Args:
            t: 0 to T - 1.

        Raises:
            IndexError: if there is no such step.
        """
        if not 0 <= t < self.horizon:
            raise IndexError(f"there is no step at time index {t}; the model has {self.horizon}")
        batch = self.batch_shape
        own = {name: at_time(getattr(self, name), axes, t, batch) for name, axes in OWN_AXES.items()}
        costs = {name: at_time(getattr(self.reward, name), len(axes.split()), t, batch) for name, axes in AXES.items()}
        prior: dict[str, Tensor | None] = {"K0": None, "k0": None, "L": None}
        prior |= {name: at_time(part, axes, t, batch) for name, (part, axes) in prior_parts(self.action_prior).items()}
        return LinearStep(**own, **costs, **prior)  # type: ignore[arg-type]

    @property
    def final(self) -> tuple[Tensor, Tensor, Tensor]:
        """(Qf [..., n, n], qf [..., n], constf [...]), costs of s_{T+1} with the batch axes of the model in front."""
        Qf, qf, constf = self.reward.final
        batch, n = self.batch_shape, self.state_dim
        return Qf.expand(*batch, n, n), qf.expand(*batch, n), constf.expand(batch)

    @property
    def start(self) -> Gaussian:
        """p(s_1) with the batch axes of the model in front."""
        batch, n = self.batch_shape, self.state_dim
        return Gaussian(self.initial.mean.expand(*batch, n), self.initial.covariance.expand(*batch, n, n))

    def member(self, *index: int) -> LinearGaussianModel:
        """One model of a batch.

        Args:
            *index: a number for each batch axis.

        Raises:
            IndexError: if there is no such member, or the model is no batch.
        """
        if self.host is not self:
            return self.host.member(*index).to(self.device, self.dtype)
        if len(index) != len(self.batch_shape):
            raise IndexError(
                f"{len(index)} indices for a batch of shape {list(self.batch_shape)}; give one for each axis"
            )

        def of(tensor: Tensor, axes: int) -> Tensor:
            lead = self.batch_shape + tensor.shape[max(0, tensor.dim() - axes) :]
            return tensor.expand(lead)[tuple(index)] if tensor.dim() > axes else tensor

        parts = {name: of(tensor, axes) for name, (tensor, axes) in self._parts().items()}
        final = tuple(parts[f"the final reward's {name}"] for name in FINAL)
        reward = QuadraticReward(**{name: parts[name] for name in AXES}, final=final if self.is_finite else None)
        prior = self.action_prior
        if isinstance(prior, LinearNormal):
            prior = LinearNormal(parts["K0"], parts["k0"], parts["L"])
        start = (parts["initial mean"], parts["initial covariance"])
        own = {name: parts[name] for name in OWN_AXES}
        return self.replace(**own, initial=start, reward=reward, action_prior=prior)

    # ---- what the program and the simulator ask -----------------------------------------------------------------

    def start_distribution(self) -> TorchDistribution:
        mean, covariance = self.start
        return gaussian(mean, covariance, self.root("start", covariance))

    def prior(self, state: Tensor, t: int) -> TorchDistribution:
        step = self.matrices(t)
        if step.K0 is None or step.k0 is None or step.L is None:
            raise ValueError("the action prior is Flat(), from which no action can be drawn")
        return gaussian(_apply(step.K0, state) + step.k0, step.L, self.root(f"prior {self._key(t)}", step.L))

    def transition(self, state: Tensor, action: Tensor, t: int) -> TorchDistribution:
        step = self.matrices(t)
        mean = _apply(step.A, state) + _apply(step.B, action) + step.offset
        return gaussian(mean, step.noise, self.root(f"noise {self._key(t)}", step.noise))

    def step_reward(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        step = self.matrices(t)
        cost = 0.5 * quadratic_form(state, step.Q, state) + quadratic_form(state, step.N, action)
        cost = cost + 0.5 * quadratic_form(action, step.R, action)
        cost = cost + (step.q * state).sum(-1) + (step.r * action).sum(-1) + step.const
        return -cost

    def last_reward(self, state: Tensor) -> Tensor | None:
        if not self.reward.has_final:
            return None
        Qf, qf, constf = self.final
        return -(0.5 * quadratic_form(state, Qf, state) + (qf * state).sum(-1) + constf)

    def _facts(self) -> dict[str, Any]:
        batch = {"batch": list(self.batch_shape)} if self.batch_shape else {}
        return batch | {"time-varying": self.is_time_varying, "reward": repr(self.reward)}

    def _key(self, t: int) -> int:
        return t if self.is_time_varying else 0


OWN_AXES = {"A": 2, "B": 2, "offset": 1, "noise": 2}


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix [..., k, n] times vectors [..., n]."""
    return (matrix @ vector[..., None])[..., 0]


def _given(value: Any, default: Tensor) -> Any:
    return default if value is None else value


def _sizes(A: Any, B: Any) -> tuple[int, int]:
    """(n, m), by the last axes of A and B."""
    shapes = []
    for name, value, letters in (("A", A, "[n, n]"), ("B", B, "[n, m]")):
        if value is None:
            raise ValueError(f"{name} is missing; give {letters}")
        tensor, _ = float_tensor(value, name) if not isinstance(value, (int, float)) else (torch.tensor(value), None)
        if tensor.dim() < 2 or 0 in tensor.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}; expected {letters}, or [..., T, {letters[1:]}")
        shapes.append(tensor.shape)
    return int(shapes[0][-1]), int(shapes[1][-1])


def _read_initial(initial: Any, n: int) -> Gaussian:
    if initial is None:
        raise ValueError("initial is missing; give (m1, S1), the mean [n] and the covariance [n, n] of the first state")
    if isinstance(initial, tuple) and len(initial) != 2:
        raise ValueError(f"initial has {len(initial)} parts; expected (m1, S1), a mean [n] and a covariance [n, n]")
    mean, covariance = initial if isinstance(initial, tuple) else (initial, torch.zeros(n, n, dtype=torch.float64))
    mean, _ = read_matrix(mean, "the mean of initial", "n", {"n": n}, None)
    covariance, rounding = read_matrix(covariance, "the covariance of initial", "n n", {"n": n}, None)
    return Gaussian(mean, check_covariance(covariance, "the covariance of initial", rounding, None))


def _read_prior(prior: Any, n: int, m: int, horizon: int | float) -> LinearNormal | Flat:
    if prior is None:
        raise ValueError(
            "action_prior is missing, and continuous actions have no default: give LinearNormal(K0, k0, L), "
            "a Gaussian, "
            "or Flat(), none at all (evidence then is relative to da)"
        )
    if isinstance(prior, LinearNormal):
        return prior.fitted(n, m, horizon)
    if not isinstance(prior, Flat):
        raise TypeError(
            f"action_prior is a {type(prior).__name__}; a LinearGaussianModel takes LinearNormal(K0, k0, L) or Flat() "
            "(any other prior makes a ContinuousModel)"
        )
    if prior.dim not in (None, m):
        raise ValueError(f"action_prior is Flat({prior.dim}), and B has {m} columns; write Flat()")
    return prior

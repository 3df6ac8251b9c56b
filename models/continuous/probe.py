"""Trying the functions of a continuous model on a few states: do they keep the axes, and return numbers?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.models.common.random_draws import OwnDraws
from cai.models.continuous.priors import Flat, LinearNormal

if TYPE_CHECKING:
    from cai.models.continuous.model import ContinuousModel

__all__ = ["find_action_dim", "probe"]

ROWS = (5, 7, 11)  # how many states are tried: the first that is neither n nor m, so that no axis is taken for another


def find_action_dim(model: ContinuousModel) -> int:
    """m, of the prior; of `Flat()` 1, unless the dynamics would take more as well."""
    prior = model.action_prior
    if prior is None:
        raise ValueError(
            "action_prior is missing, and continuous actions have no default: give LinearNormal(K0, k0, L), a function "
            "(s, t) -> distribution, or Flat(), none at all (evidence then is relative to da)"
        )
    with OwnDraws(), torch.no_grad():
        state = model.start_distribution().sample((3,))
        if isinstance(prior, LinearNormal):
            if prior.dim is None:
                raise ValueError(f"the action prior's L has shape {list(prior.L.shape)}; expected [m, m]")
            return prior.dim
        if isinstance(prior, Flat):
            return prior.dim or _dim_of_flat(model, state)
        if not callable(prior) or hasattr(prior, "event_shape"):  # distributions of Pyro can be called
            raise TypeError(
                f"action_prior is a {type(prior).__name__}; expected LinearNormal, Flat() or a function (s, t) -> "
                "distribution"
            )
        given = _call("action_prior", prior, state, 0)
        if not hasattr(given, "event_shape"):
            raise TypeError(
                f"action_prior returned a {type(given).__name__}; expected a Pyro distribution over actions [m]"
            )
        if len(given.event_shape) != 1:
            raise ValueError(
                f"action_prior has batch shape {list(given.batch_shape)} and event shape {list(given.event_shape)} for "
                f"states {list(state.shape)}; expected event shape [m]: add .to_event(1)"
            )
        if given.support.is_discrete:
            raise ValueError(
                "action_prior is a distribution whose actions are counted; expected a distribution of real "
                "numbers, or write the problem as a TrajectoryModel, e.g. by discretize(model, ...)"
            )
        return int(given.event_shape[0])


def _dim_of_flat(model: ContinuousModel, state: Tensor) -> int:
    """1, refused where the dynamics take two coordinates as well and read both."""
    try:
        with torch.enable_grad():
            action = torch.zeros(len(state), 2, dtype=state.dtype, requires_grad=True)
            moved = model.dynamics(state, action, 0)
            mean = moved if isinstance(moved, Tensor) else moved.mean
            (gradient,) = torch.autograd.grad(mean.sum(), action)
    except Exception:  # these dynamics do not take two
        return 1
    if bool(gradient[:, 1].any()):
        raise ValueError(
            "Flat() leaves open how many coordinates an action has, and the dynamics take 2 as well as 1; write "
            "Flat(1), Flat(2), ..."
        )
    return 1


def probe(model: ContinuousModel) -> None:
    """Calls every function of a model on states that it draws itself, alone and in rows.

    Raises:
        TypeError, ValueError: naming the function, what it returned and what was expected.
    """
    rows = next(count for count in ROWS if count not in (model.state_dim, model.action_dim))
    with OwnDraws(), torch.no_grad():
        for lead in ((), (rows,), (2, rows)):
            state = model.start_distribution().sample(lead)
            if not bool(torch.isfinite(state).all()):
                raise ValueError("initial drew NaN or inf; give finite numbers")
            for t in sorted({0, model.steps - 1}):
                state = _probe_step(model, state, lead, t)
            if model.final_reward is not None:
                last = _call("final_reward", model.final_reward, state)
                _numbers("final_reward", last, lead)
                _rows_apart("final_reward", last, _of_each("final_reward", model.final_reward, state), lead)


def _probe_step(model: ContinuousModel, state: Tensor, lead: tuple[int, ...], t: int) -> Tensor:
    if model.terminal is not None:
        ends = _call("terminal", model.terminal, state)
        if not isinstance(ends, Tensor) or ends.dtype != torch.bool or ends.shape != lead:
            raise ValueError(
                f"terminal returned {_what(ends)} for states {list(state.shape)}; expected a bool tensor {list(lead)}"
            )
        _rows_apart("terminal", ends, _of_each("terminal", model.terminal, state), lead)
    action = _draw_action(model, state, lead, t)
    paid = _call("reward", model.reward, state, action, t)
    _numbers("reward", paid, lead, state, action)
    _rows_apart("reward", paid, lambda i: _call("reward", model.reward, state[i], action[i], t), lead)
    moved = _call("dynamics", model.dynamics, state, action, t)
    want = [*lead, model.state_dim]
    given = f"for states {list(state.shape)} and actions {list(action.shape)}"
    if isinstance(moved, Tensor):
        following = moved
    elif hasattr(moved, "event_shape") and hasattr(moved, "sample"):
        batch, event = list(moved.batch_shape), list(moved.event_shape)
        if [batch, event] != [list(lead), [model.state_dim]]:
            advice = "add .to_event(1)" if batch + event == want else "keep the leading axes"
            raise ValueError(
                f"dynamics returned a distribution of batch shape {batch} and event shape {event} {given}; expected "
                f"{list(lead)} and {[model.state_dim]}: {advice}"
            )
        following = moved.sample()
    else:
        raise TypeError(
            f"dynamics returned {_what(moved)}; expected a tensor [..., n], or a Pyro distribution: compute with "
            "torch, so that gradients pass"
        )
    if list(following.shape) != want:
        raise ValueError(
            f"dynamics returned shape {list(following.shape)} {given}; expected {want}: keep the leading axes, write "
            "s[..., 0] for a coordinate and torch.stack([...], -1) for the state"
        )
    if not bool(torch.isfinite(following).all()):
        raise ValueError(f"dynamics returned NaN or inf at time index {t} {_where(state, action, following)}")
    _rows_apart(
        "dynamics",
        _measured(moved, following),
        lambda i: _measured(_call("dynamics", model.dynamics, state[i], action[i], t), following[i]),
        lead,
    )
    return following.double()


def _measured(moved: Any, following: Tensor) -> Any:
    """What is moved to, or the density there of a distribution; None where that is not known."""
    if isinstance(moved, Tensor):
        return moved
    try:
        return moved.log_prob(following)
    except (NotImplementedError, ValueError):
        return None


def _rows_apart(name: str, together: Any, alone: Callable[[int], Any], lead: tuple[int, ...]) -> None:
    """Refuses a function whose values for a row of states depend on the others of the row."""
    if len(lead) != 1 or together is None:
        return
    each = [alone(i) for i in range(lead[0])]
    found = torch.stack([torch.as_tensor(value, dtype=together.dtype) for value in each])
    tolerance = 1e-6 if together.dtype == torch.float64 else 1e-3
    if together.dtype == torch.bool:
        same = bool((found == together).all())
    else:
        same = torch.allclose(found, together, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not same:
        raise ValueError(
            f"{name} returned other numbers for {lead[0]} states at once than for each alone; keep the leading axes "
            "apart, e.g. s.norm(dim=-1, keepdim=True) and s.mean(-1), and give noise as a distribution, not as draws"
        )


def _of_each(name: str, function: Any, state: Tensor) -> Callable[[int], Any]:
    return lambda i: _call(name, function, state[i])


def _draw_action(model: ContinuousModel, state: Tensor, lead: tuple[int, ...], t: int) -> Tensor:
    if model.is_flat:
        return torch.randn(*lead, model.action_dim, dtype=state.dtype)
    try:
        prior = model.prior(state, t)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"action_prior failed for states {list(state.shape)}: {error}") from error
    action = prior.sample()
    if list(action.shape) != [*lead, model.action_dim]:
        raise ValueError(
            f"action_prior draws actions of shape {list(action.shape)} for states {list(state.shape)}; expected "
            f"{[*lead, model.action_dim]}"
        )
    if not bool(torch.isfinite(action).all()):
        raise ValueError(f"action_prior drew NaN or inf at time index {t}; give finite numbers")
    score = _measured(prior, action)
    _rows_apart("action_prior", score, lambda i: _measured(model.prior(state[i], t), action[i]), lead)
    return action


def _call(name: str, function: Any, *arguments: Any) -> Any:
    """The function's result, or its error with what it was called with."""
    try:
        return function(*arguments)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        shapes = " and ".join(
            f"{what} {list(given.shape)}"
            for what, given in zip(("states", "actions"), arguments, strict=False)
            if isinstance(given, Tensor)
        )
        raise ValueError(
            f"{name} failed when it was called with {shapes}: {type(error).__name__}: {error}; leading axes are free, "
            "so write s[..., 0] for a coordinate"
        ) from error


def _numbers(name: str, value: Any, lead: tuple[int, ...], *arguments: Tensor) -> None:
    """Refuses what is no row of rewards."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} returned {_what(value)}; expected a tensor of shape {list(lead)}: compute with torch")
    if value.shape != lead:
        given = f" for states {list(arguments[0].shape)}" if arguments else ""
        advice = "; take the coordinate, s[..., 0], or sum over the last axis" if value.shape[:-1] == lead else ""
        raise ValueError(
            f"{name} returned shape {list(value.shape)}{given}; expected {list(lead)}, one number for each "
            f"state{advice}"
        )
    if bool((torch.isnan(value) | (value == torch.inf)).any()):
        raise ValueError(f"{name} returned NaN or +inf; rewards are numbers, or -inf for what is forbidden")


def _where(state: Tensor, action: Tensor, following: Tensor) -> str:
    bad = ~torch.isfinite(following).all(-1)
    at = tuple(torch.nonzero(bad)[0].tolist()) if bad.dim() else ()
    return f"for s = {[round(x, 4) for x in state[at].tolist()]}, a = {[round(x, 4) for x in action[at].tolist()]}"


def _what(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")

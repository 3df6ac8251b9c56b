"""log q(tau) of whole trajectories: read off q's tables, or off a program run with its states and actions given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.core.status import Status, Target
from cai.inference.programs.enumerated import EnumeratedProgram, Term, eliminate
from cai.inference.programs.exact_sites import ExactSites
from cai.models.common.checks import index_tensor
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.programs.inspect import Program, explain, site_time
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    from cai.inference.core.posterior import Posterior

__all__ = ["score_program", "score_trajectories"]

CHUNK = 4096  # trajectories that are scored at once


def score_trajectories(posterior: Posterior, states: Any, actions: Any) -> Tensor:
    """[N], log q of trajectories in nats; see `Posterior.log_prob`."""
    if posterior.status in (Status.IMPOSSIBLE, Status.DEGENERATE):
        raise ValueError(f"there is no posterior to score by: {posterior.status}")
    if posterior.horizon == float("inf"):
        raise ValueError("trajectories of an infinite horizon have no end, so none has a probability")
    if 0 in posterior.action_probs.shape:
        raise ValueError(
            f"the answer of backend {posterior.backend!r} is a set of weighted particles of continuous sites, which "
            "has no density; ask details['particles'].expect(...) for expectations"
        )
    states, actions = _checked(posterior, states, actions)
    if posterior.scorer is not None:
        return posterior.scorer(states, actions)
    if posterior.step_outcomes is None and posterior.sampler is not None:
        if posterior.target is Target.EXACT and posterior.log_evidence is not None:  # q is p(tau | O), by contract
            return score_program(posterior.model, states, actions) - posterior.log_evidence
        raise ValueError(
            f"backend {posterior.backend!r} samples what its tables alone do not describe, and has no scorer: its q "
            "may remember more than (s_t, a_t); ask 'enumeration' for a program, 'exact' for a TrajectoryModel"
        )
    return _score_tables(posterior, states, actions)


def _checked(posterior: Posterior, states: Any, actions: Any) -> tuple[Tensor, Tensor]:
    """The indices as int64 tensors; refuses what `sample` could not have returned."""
    num_states, num_actions = posterior.action_prior.shape[-2:]
    horizon, longer = posterior.action_probs.shape[0], posterior.state_marginals.shape[0]
    states, actions = index_tensor(states, "states"), index_tensor(actions, "actions")
    falls = isinstance(posterior.model, TrajectoryModel) and posterior.model.discount < 1
    absorbing = " (S is the absorbing state)" if falls else ""
    for what, found, width in (("states", states, longer), ("actions", actions, horizon)):
        if found.dim() != 2 or found.shape[1] != width:
            raise ValueError(
                f"{what} has shape {list(found.shape)}; expected [N, {width}], a row for each trajectory as "
                "Posterior.sample returns them"
            )
    if states.shape[0] != actions.shape[0] or not len(states):
        raise ValueError(
            f"there are {states.shape[0]} rows of states and {actions.shape[0]} of actions; give as many, one at least"
        )
    for what, found, size in (("states", states, num_states + falls), ("actions", actions, num_actions)):
        outside = (found < 0) | (found >= size)
        if bool(outside.any()):
            row, t = torch.nonzero(outside)[0].tolist()
            note = absorbing if what == "states" else ""
            raise ValueError(f"{what}[{row}, {t}] is {int(found[row, t])}; expected 0 to {size - 1}{note}")
    return states, actions


def _score_tables(posterior: Posterior, states: Tensor, actions: Tensor) -> Tensor:
    """Log q(s_1) + sum_t log q(a_t | s_t) + log q(s_{t+1} | s_t, a_t), from start, policy and dynamics."""
    num_states, num_actions = posterior.action_prior.shape[-2:]
    start = torch.cat([posterior.initial, posterior.initial.new_zeros(1)])
    total = safe_log(start[states[:, 0]])
    one, nothing = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t in range(actions.shape[1]):
        state, action = states[:, t], actions[:, t]
        inside, absorbed = state.clamp(max=num_states - 1), state == num_states
        chosen = torch.where(absorbed, one / num_actions, posterior.action_probs[t][inside, action])
        total = total + safe_log(chosen)
        if t + 1 == states.shape[1]:
            break
        following = states[:, t + 1]
        moved = _transition(posterior, t, inside, action, following)
        stays = torch.where(following == num_states, one, nothing)
        total = total + safe_log(torch.where(absorbed, stays, moved))
    return total


def _transition(posterior: Posterior, t: int, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
    """[N], q(s_{t+1} | s_t, a_t) out of a state 0..S-1; never dense where the outcomes are listed."""
    num_states = posterior.action_prior.shape[-2]
    inside, falls = following.clamp(max=num_states - 1), following == num_states
    if posterior.step_outcomes is not None and posterior.mdp is not None:
        alive, fallen = posterior.step_outcomes(t)
        if posterior.mdp.next_states is None:
            moved = alive[state, action, inside]
        else:
            reached = posterior.mdp.next_states[state, action] == inside[:, None]
            rows = alive[state, action]
            moved = torch.where(reached, rows, torch.zeros_like(rows)).sum(-1)
        return torch.where(falls, fallen[state, action].sum(-1), moved)
    rows = posterior.dynamics(t)[state, action]
    moved = rows.gather(-1, inside[:, None])[:, 0]
    return torch.where(falls, (1 - rows.sum(-1)).clamp(min=0), moved)


class _Given(Messenger):
    """Gives the state and action sites the values of N trajectories, along the dimension of their plate."""

    def __init__(self, states: Tensor, actions: Tensor) -> None:
        super().__init__()
        self.tables = {"s": states, "a": actions}

    def _pyro_sample(self, msg: Any) -> None:
        site = site_time(msg["name"])
        if site is None or msg["type"] != "sample" or msg["is_observed"]:
            return
        kind, t = site
        dtype = msg["fn"].enumerate_support(expand=False).dtype
        msg["value"] = self.tables[kind][:, t - 1].to(dtype)
        msg["infer"]["enumerate"] = None


def score_program(program: Program, states: Tensor, actions: Tensor, *, factors: bool = True) -> Tensor:
    """[N], log p(s, a, O) of a program's trajectories in nats, every further latent summed out.

    Args:
        program: any trajectory program of discrete sites.
        states: int64 [N, T + 1], or [N, T] where it draws no s_{T+1}.
        actions: int64 [N, T].
        factors: whether optimality counts; without it the result is log p(s, a), for q's own program (a guide).

    Raises:
        ValueError: if the program fails under a plate, or tensor dimensions run out.
    """
    parts = zip(states.split(CHUNK), actions.split(CHUNK), strict=True)
    return torch.cat([_score_chunk(program, rows, taken, factors) for rows, taken in parts])


@pyro_session()
def _score_chunk(program: Program, states: Tensor, actions: Tensor, factors: bool) -> Tensor:
    size = states.shape[0]
    exactly = config_enumerate(ExactSites()(program), default="parallel")

    def many() -> None:
        with pyro.plate("_trajectories", size, dim=-1), _Given(states, actions):
            exactly()

    try:
        with EnumMessenger(first_available_dim=-2):
            trace = poutine.trace(many).get_trace()
        trace.compute_log_prob()
        trace.pack_tensors()
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the program failed when its further latents were summed out for given trajectories: {explain(error)}; "
            "write its loop as 'for t in pyro.markov(range(T))', and index with [..., i]"
        ) from error
    order: list[str] = []
    symbols: dict[str, str] = {}
    terms: dict[str, Term] = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["infer"].get("_deterministic", False):
            continue
        if type(node["fn"]).__name__ == "_Subsample" or (node["is_observed"] and not factors):
            continue
        value = node["packed"]["log_prob"]
        terms[name] = Term(value, value._pyro_dims)
        if node["infer"].get("_enumerate_dim") is not None:
            order.append(name)
            symbols[name] = node["infer"]["_enumerate_symbol"]
        elif not node["is_observed"] and site_time(name) is None:
            raise ValueError(
                f"latent site {name!r} is not discrete, so it cannot be summed out of a trajectory's probability"
            )
    run = EnumeratedProgram(tuple(order), symbols, {name: terms[name] for name in order}, {}, {}, {})
    total = eliminate(run, terms.values(), _sum_out, _add).tensor
    return total.double().expand(size)


def _sum_out(name: str, total: Tensor, dims: str, axis: int) -> Tensor:
    return safe_logsumexp(total, axis)


def _add(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total

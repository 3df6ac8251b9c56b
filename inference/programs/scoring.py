"""Log probabilities of whole trajectories of a program, run with its states and actions given."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.programs.enumerated import EnumeratedProgram, Term, eliminate
from cai.inference.programs.exact_sites import ExactSites
from cai.models.common.numerics import safe_logsumexp
from cai.models.programs.inspect import Program, explain, site_time
from cai.models.programs.session import pyro_session

__all__ = ["score_program"]

CHUNK = 4096  # trajectories that are scored at once


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

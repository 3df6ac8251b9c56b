"""The structured guide, derived from a program by effect handlers.

q is the program itself with its action sites re-distributed by a policy pi(a_t | s_t), its dynamics untouched (Levine
2018, section 3.2, equation 18) or freed, in which case every other latent gets conditionals of its own too. Nothing
is written beside the program, so every program has its guide.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from cai.inference.programs.exact_sites import ExactSites, redistribute, support_logits
from cai.models.programs.inspect import Program, ProgramInfo, inspect_program, site_time

__all__ = ["POLICY", "PREFIX", "Redistribute", "StructuredGuide", "drawn_sites", "free_name"]


PREFIX = "cai.guide."
POLICY = f"{PREFIX}policy"


def free_name(site: str) -> str:
    """The name of a freed site's parameter."""
    return f"{PREFIX}free.{site}"


class Redistribute(Messenger):
    """Gives action sites the policy at the last seen state, and freed sites conditionals of their own.

    Args:
        policy: [T, S, A], logits.
        supports: for sites by name, bool tables over their context and values; what is false gets probability 0.
        free: for freed sites by name, tables [*context, N] of logits added to the program's own; None leaves all
            other latents untouched.

    Attributes:
        originals: after a run, every redistributed site's own distribution.
        contexts: after a run, the sites that each redistributed site's table is indexed by.
    """

    def __init__(self, policy: Tensor, supports: dict[str, Tensor], free: FreeTables | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.supports = supports
        self.free = free
        self.originals: dict[str, Distribution] = {}
        self.contexts: dict[str, tuple[str, ...]] = {}
        self._values: dict[str, Tensor] = {}

    def __enter__(self) -> Any:
        self.originals, self.contexts, self._values = {}, {}, {}
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["type"] != "sample":
            return
        name, fn, site = msg["name"], msg["fn"], site_time(msg["name"])
        if site and site[0] == "a":
            context: tuple[str, ...] = (f"s_{site[1]}",)
            logits = self.policy[site[1] - 1][self._index(context)]
        elif self.free is not None:
            context = tuple(self._values)
            own = support_logits(fn)
            sizes = tuple(self.free.sizes[other] for other in context)
            logits = own + self.free.table(name, (*sizes, own.shape[-1]))[self._index(context)]
        else:
            return
        if name in self.supports:
            allowed = self.supports[name][self._index(context)]
            logits = logits.masked_fill(~allowed, -torch.inf)
        self.originals[name], self.contexts[name] = fn, context
        msg["fn"] = redistribute(fn, logits)

    def _index(self, context: tuple[str, ...]) -> Any:
        return tuple(self._values[name].long() for name in context) or ...

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["type"] != "sample":
            return
        site = site_time(msg["name"])
        if site and site[0] == "s":
            self._values = {}  # a step's context starts anew at its state
        self._values[msg["name"]] = msg["value"]


class FreeTables:
    """The parameters of freed sites, made when a site is first drawn."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def table(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Logits [*context, N], zero (the program's own conditionals) to begin with."""
        return pyro.param(free_name(name), lambda: torch.zeros(shape, dtype=torch.float64))


def drawn_sites(nodes: Any, kind: str, count: int, num_samples: int) -> Tensor:
    """[N, count], the values of the sites `kind`_1 .. `kind`_count of a run under a plate of N samples."""
    values = [nodes[f"{kind}_{t}"]["value"].long().reshape(-1).expand(num_samples) for t in range(1, count + 1)]
    return torch.stack(values, -1)


class StructuredGuide:
    """q's own program: call it to draw a trajectory from q (its factors are kept as sites, and score nothing in q).

    Args:
        program: a `TrajectoryModel` or any trajectory program.
        free_dynamics: whether start and dynamics move too.
        supports: for sites by name, bool tables over their context and values; what is false gets probability 0.
        info: of the program, if it is known already.

    The parameters live in the parameter store that Pyro uses where the guide is called, under names that begin with
    PREFIX: the policy's logits [T, S, A], and a table for each freed site.
    """

    def __init__(
        self,
        program: Program,
        *,
        free_dynamics: bool = False,
        supports: dict[str, Tensor] | None = None,
        info: ProgramInfo | None = None,
    ) -> None:
        self.program = program
        self.info = info or inspect_program(program)
        self.free_dynamics = free_dynamics
        self.supports = {} if supports is None else supports
        self.handler: Redistribute | None = None

    def __call__(self) -> None:
        info = self.info
        shape = (info.horizon, info.num_states, info.num_actions)
        policy = pyro.param(POLICY, lambda: torch.zeros(shape, dtype=torch.float64))
        free = FreeTables(info.sizes) if self.free_dynamics else None
        self.handler = Redistribute(policy, self.supports, free)
        with self.handler, ExactSites():
            self.program()

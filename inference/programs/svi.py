"""Fits a structured guide: one loop for the policy alone and for policy, dynamics and start together."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from pyro.params.param_store import ParamStoreDict
from torch import Tensor

from cai.inference.core.progress import progress
from cai.inference.core.status import Status
from cai.inference.programs.enumerated import (
    EnumeratedProgram,
    Term,
    can_succeed,
    enumerate_guide,
    enumerate_program,
    find_supports,
)
from cai.inference.programs.guide import POLICY, PREFIX, JointProbe, StructuredGuide, drawn_sites, free_name
from cai.inference.programs.scoring import score_program
from cai.models.common.numerics import safe_log
from cai.models.programs.inspect import Program, ProgramInfo, site_time
from cai.models.programs.session import pyro_session

__all__ = ["Fit", "FitOptions", "fit"]

logger = logging.getLogger("cai.inference")


@dataclass(frozen=True)
class FitOptions:
    """Hyper-parameters of the loop.

    Attributes:
        max_steps: the most gradient steps.
        learning_rate: of Pyro's SGD along the natural gradient; 1 is a full soft greedy step. Halved whenever a step
            would lower the bound.
        tolerance: in nats; stop when no entry of the natural gradient exceeds it, or when the bound has grown by less
            over (10 + 2 T) / learning_rate steps.
    """

    max_steps: int
    learning_rate: float
    tolerance: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted guide.

    Attributes:
        guide: the guide, for its structure.
        run: its enumerated run at the best parameters, without gradients.
        bound: the best bound, nats.
        status: SUCCESS, NOT_CONVERGED, or IMPOSSIBLE / UNAVOIDABLE where no q keeps clear of -inf.
        parameters: the best, by their names in Pyro's store.
        details: "history" (the bound at every step), "steps" and "gradient" (its largest last entry).
    """

    guide: StructuredGuide
    run: EnumeratedProgram
    bound: Tensor
    status: Status
    details: dict[str, Any]
    parameters: dict[str, Tensor]

    def probed(self, probe: JointProbe) -> EnumeratedProgram:
        """The enumerated run with probes."""
        with pyro_session(), torch.enable_grad():
            for key, value in self.parameters.items():
                pyro.param(key, value)
            return enumerate_program(probe(self.guide), lambda: self.guide.handler)

    def sample(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """Trajectories of q, by running the guide; states [N, T + 1] ([N, T] without s_{T+1}) and actions [N, T]."""
        info = self.guide.info
        with pyro_session(seed), torch.no_grad():
            for key, value in self.parameters.items():
                pyro.param(key, value)
            with pyro.poutine.trace() as tracer, pyro.plate("_samples", num_samples, dim=-1):
                self.guide()
        nodes, last = tracer.trace.nodes, info.horizon + info.has_last_state
        return drawn_sites(nodes, "s", last, num_samples), drawn_sites(nodes, "a", info.horizon, num_samples)

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N], log q of trajectories as `sample` returns them, by running the guide; further latents are summed out."""
        with pyro_session(), torch.no_grad():
            for key, value in self.parameters.items():
                pyro.param(key, value)
            return score_program(self.guide, states, actions, factors=False)


def fit(program: Program, info: ProgramInfo, *, free_dynamics: bool, options: FitOptions, seed: int) -> Fit:
    """Maximises the enumerated bound of a program's structured guide with Pyro's SVI.

    The parameter store and the global random state are left as they were.
    """
    supports: dict[str, Tensor] = {}
    guide = StructuredGuide(program, free_dynamics=free_dynamics, supports=supports, info=info)
    status = Status.NOT_CONVERGED
    with pyro_session(seed) as store, torch.enable_grad():
        first = enumerate_guide(guide)
        assert guide.handler is not None
        found, clear = find_supports(first, guide.handler.contexts)
        supports.update(found)
        _start_at_prior(first, pyro.param(POLICY))
        if not clear:
            with torch.no_grad():
                run = enumerate_guide(guide)
            nothing = torch.full((), -math.inf, dtype=torch.float64)
            return Fit(guide, run, nothing, _why_blocked(program), {}, _parameters(store))
        objective = _NaturalGradient(options, store)
        # News travels one step of the program for each step of the fit, so a shorter wait would prove nothing.
        patience = math.ceil((10 + 2 * info.horizon) / options.learning_rate)
        svi = SVI(program, guide, pyro.optim.SGD({"lr": 1.0}), objective, loss_and_grads=objective.loss_and_grads)
        try:
            for _ in progress(options.max_steps, "fitting the guide"):
                svi.step()
                if objective.largest <= options.tolerance or objective.stands_still(patience):
                    status = Status.SUCCESS
                    break
        except KeyboardInterrupt:
            logger.warning(
                "fitting was interrupted after %d steps; the best guide so far is kept", len(objective.history)
            )
        with torch.no_grad():
            objective.restore_best()
            run = enumerate_guide(guide)
            bound = run.bound()
    details = {"history": tuple(objective.history), "steps": len(objective.history), "gradient": objective.largest}
    return Fit(guide, run, bound, status, details, objective.best_parameters)


def _why_blocked(program: Program) -> Status:
    """IMPOSSIBLE if p(O) = 0, else UNAVOIDABLE."""
    with pyro_session():
        return Status.UNAVOIDABLE if can_succeed(enumerate_program(program)) else Status.IMPOSSIBLE


def _parameters(store: ParamStoreDict) -> dict[str, Tensor]:
    """A copy of the guide's own; a program may have parameters too, which are not ours to move."""
    return {key: value.detach().clone() for key, value in store.items() if key.startswith(PREFIX)}


def _start_at_prior(run: EnumeratedProgram, policy: Tensor) -> None:
    """Sets the policy's logits to the program's own, so that rows which cannot matter keep the action prior."""
    with torch.no_grad():
        for t in range(policy.shape[0]):
            name = f"a_{t + 1}"
            log_p, order = run.log_p[name], run.symbols[f"s_{t + 1}"] + run.symbols[name]
            dims = "".join(sorted(set(log_p.dims) | set(order)))
            unseen = [i for i, dim in enumerate(dims) if dim not in order]
            probabilities = log_p.aligned(dims).exp()
            probabilities = probabilities.mean(unseen) if unseen else probabilities
            logits = safe_log(Term(probabilities, "".join(d for d in dims if d in order)).aligned(order))
            policy[t] = torch.where(torch.isinf(logits), torch.zeros_like(logits), logits)


class _NaturalGradient:
    """The loss that SVI minimises: minus the enumerated bound, with the natural gradient as its slope.

    Args:
        options: of the loop.
        store: of the session, which holds the parameters.

    Attributes:
        history: the bound at every step.
        largest: the largest entry of the natural gradient at the best parameters.
        best_parameters: those of the highest bound.
    """

    def __init__(self, options: FitOptions, store: ParamStoreDict) -> None:
        self.store = store
        self.rate = options.learning_rate
        self.tolerance = options.tolerance
        self.history: list[float] = []
        self.largest = math.inf
        self._best = -math.inf
        self.best_parameters: dict[str, Tensor] = {}
        self._best_slopes: dict[str, Tensor] = {}

    def __call__(self, program: Program, guide: StructuredGuide) -> Tensor:
        return -enumerate_guide(guide).bound()

    def loss_and_grads(self, program: Program, guide: StructuredGuide) -> float:
        """Sets the gradients of the parameters and returns minus the bound."""
        run = enumerate_guide(guide)
        assert guide.handler is not None
        bound, advantages = run.detach().advantages(guide.handler.contexts, guide.info.sizes)
        self.history.append(float(bound))
        if float(bound) >= self._best - 1e-12 * max(1.0, abs(self._best)):
            self._best = max(self._best, float(bound))
            self.best_parameters = _parameters(self.store)
            self._best_slopes = self._slopes(advantages)
            self.largest = max((float(slope.abs().max()) for slope in self._best_slopes.values()), default=0.0)
        else:  # too far: go back, and take half the step
            self.restore_best()
            self.rate /= 2
        for key, slope in self._best_slopes.items():
            pyro.param(key).grad = -self.rate * slope
        return -float(bound)

    def stands_still(self, patience: int) -> bool:
        """Whether the best bound has grown by less than the tolerance over the last `patience` steps."""
        if len(self.history) <= patience:
            return False
        return self._best - max(self.history[:-patience]) <= self.tolerance * max(1.0, abs(self._best))

    def _slopes(self, advantages: dict[str, Tensor]) -> dict[str, Tensor]:
        slopes = {key: torch.zeros_like(value) for key, value in self.best_parameters.items()}
        for name, table in advantages.items():
            site = site_time(name)
            if site and site[0] == "a":
                slopes[POLICY][site[1] - 1] = table
            else:
                slopes[free_name(name)] = table
        return slopes

    def restore_best(self) -> None:
        """Puts the best parameters back."""
        with torch.no_grad():
            for key, value in self.best_parameters.items():
                pyro.param(key).copy_(value)

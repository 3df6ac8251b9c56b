"""The exact posterior of any program of discrete sites: Pyro enumerates it, and sums eliminate its latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from cai.inference.core.backend import refuse_continuous
from cai.inference.core.memory import Need, check_memory, enumerated_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.programs.answers import posterior_of_run
from cai.inference.programs.guide import enumerate_program
from cai.inference.programs.requirements import check_enumerable, check_program, table_bytes
from cai.models.continuous.world import World
from cai.models.programs.inspect import ProgramInfo, inspect_program
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Enumeration"]


@dataclass(frozen=True)
class Enumeration:
    """The exact posterior of the program itself, with no messages over states: an independent check of the others.

    The program runs once with every latent enumerated by Pyro; summing the latents out in log space, the last drawn
    first, gives log p(O) and every conditional p(x | context, O), from which policy, dynamics and the marginals of
    all sites are read. Rows that the posterior never visits keep the action prior and the true dynamics; `values` are
    not known.
    """

    name: ClassVar[str] = "enumeration"
    target: ClassVar[Target] = Target.EXACT
    accepts: ClassVar[str] = "any program of discrete sites, small"
    cost: ClassVar[str] = "T S A S time and memory, in Pyro"

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model is too large, or has continuous sites."""
        self._inspect(model)

    def _inspect(self, model: Any) -> ProgramInfo:
        if isinstance(model, TrajectoryModel):
            check_enumerable(model, self.name, "'exact'")
            check_memory(self, model)  # before the program runs
        if isinstance(model, World):
            refuse_continuous(model, self.name)
        info = inspect_program(model)
        check_program(info, self.name)
        return info

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        if isinstance(model, TrajectoryModel):
            return enumerated_need(model.steps, model.dense_bytes, "use 'exact', which passes messages")
        info = inspect_program(model)
        return enumerated_need(info.horizon, table_bytes(info), "give the program fewer steps, or ask 'smc'")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; `seed` is for programs that draw while they are enumerated."""
        info = self._inspect(model)
        with pyro_session(seed, model):
            run = enumerate_program(model)
        log_evidence, posterior = run.conditioned()
        possible = bool(torch.isfinite(log_evidence))
        return posterior_of_run(
            model,
            info,
            posterior,
            backend=self.name,
            target=self.target,
            status=Status.SUCCESS if possible else Status.IMPOSSIBLE,
            log_evidence=log_evidence,
            elbo=log_evidence,
        )

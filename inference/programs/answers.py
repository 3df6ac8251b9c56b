"""An enumerated q as an answer: the joints of its steps, what it earns and pays, and its tables to draw from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.programs.enumerated import EnumeratedProgram
from cai.inference.programs.posterior import program_posterior, step_joints
from cai.inference.programs.site_tables import SiteTables
from cai.models.common.numerics import safe_log, weighted
from cai.models.programs.inspect import Program, ProgramInfo
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["posterior_of_run"]


def posterior_of_run(
    program: Program,
    info: ProgramInfo,
    run: EnumeratedProgram,
    *,
    backend: str,
    target: Target,
    status: Status,
    log_evidence: Tensor | None,
    elbo: Tensor,
    details: Mapping[str, Any] | None = None,
) -> Posterior:
    """Builds the answer to a program whose q was enumerated.

    Args:
        program: what was asked.
        info: its outside.
        run: the run under q, its action sites redistributed.
        backend: the name of the backend.
        target: what it approximates.
        status: how it ended.
        log_evidence: nats, 0-dim; None where it is not known.
        elbo: the bound that q attains, nats, 0-dim.
        details: further numbers.
    """
    model = program if isinstance(program, TrajectoryModel) else None
    run = run.detach()
    joints = step_joints(run, info)
    own = [run.log_p[f"a_{t}"] for t in range(1, info.horizon + 1)]
    log_prior = run.expect(own)

    def policy_divergence(policy: Tensor) -> Tensor:
        taken = torch.stack([joint.sum(-1) for joint in joints])
        return (weighted(taken, safe_log(policy)).sum() - log_prior).clamp(min=0)

    believed = torch.full((), -torch.inf, dtype=torch.float64)
    if bool(torch.isfinite(elbo)):
        believed = run.expect(run.factors.values())
        if model is not None:
            believed = model.temperature * (believed - model.evidence_offset)
    tables = SiteTables.of(run)
    return program_posterior(
        program,
        info,
        joints,
        backend=backend,
        target=target,
        status=status,
        log_evidence=log_evidence,
        elbo=elbo,
        believed_return=believed,
        policy_divergence=policy_divergence if bool(torch.isfinite(elbo)) else torch.zeros((), dtype=torch.float64),
        sampler=tables.sample,
        details=details,
    ).replace(scorer=tables.log_prob)

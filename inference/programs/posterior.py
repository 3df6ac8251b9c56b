"""Posteriors of programs: built from the joint distribution of each step, for answers that know no tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.programs.enumerated import enumerate_program
from cai.inference.programs.guide import JointProbe
from cai.models.common.numerics import safe_log, weighted
from cai.models.programs.inspect import Program, ProgramInfo
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["conditional", "prior_joints", "program_posterior"]


def conditional(joint: Tensor, otherwise: Tensor) -> Tensor:
    """p(x | c) from p(c, x) along the last axis; rows without mass are taken from `otherwise`."""
    joint = joint.clamp(min=0)
    total = joint.sum(-1, keepdim=True)
    return torch.where(total > 0, joint / torch.where(total > 0, total, torch.ones_like(total)), otherwise)


def prior_joints(program: Program, info: ProgramInfo) -> list[Tensor]:
    """T tables [S, A, S] of p(s_t, a_t, s_{t+1}) in the program itself, optimality ignored."""
    probe = JointProbe(info)
    with pyro_session(), torch.enable_grad():
        run = enumerate_program(probe(program))
        return list(torch.autograd.grad(run.expect(run.probes.values()), probe.epsilons))


def program_posterior(
    program: Program,
    info: ProgramInfo,
    joints: list[Tensor],
    *,
    backend: str,
    target: Target,
    status: Status,
    log_evidence: Tensor | None,
    elbo: Tensor | None,
    believed_return: Tensor,
    policy_divergence: Callable[[Tensor], Tensor] | Tensor,
    sampler: Callable[[int, int], tuple[Tensor, Tensor]] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Posterior:
    """Builds a posterior from q's joints.

    Args:
        program: what was asked.
        info: its outside.
        joints: T tables [S, A, S] (the last [S, A, 1] without s_{T+1}) of q(s_t, a_t, s_{t+1}); S counts the absorbing
            state of a discount.
        backend: see `Posterior`, like what follows.
        target: see `Posterior`.
        status: see `Posterior`.
        log_evidence: see `Posterior`.
        elbo: see `Posterior`.
        believed_return: reward units.
        policy_divergence: nats; or, of the policy [T, S, A], a function that finds it.
        sampler: see `Posterior.sample`.
        details: see `Posterior`.
    """
    model = program if isinstance(program, TrajectoryModel) else None
    num_states = model.mdp.num_states if model is not None else info.num_states
    before = prior_joints(program, info)
    uniform = torch.full((info.num_states, info.num_actions), 1.0 / info.num_actions, dtype=torch.float64)
    prior = torch.stack([conditional(joint.sum(-1), uniform) for joint in before])
    if model is not None:
        prior[:, :num_states] = model.action_prior
    policy = torch.stack([conditional(joint.sum(-1), prior[t]) for t, joint in enumerate(joints)])
    marginals = [joint.sum((1, 2)) for joint in joints]
    if info.has_last_state:
        marginals.append(joints[-1].sum((0, 1)))
    full = torch.stack(marginals).clamp(min=0)
    divergence = policy_divergence(policy) if callable(policy_divergence) else policy_divergence
    bound = log_evidence if log_evidence is not None else elbo
    bound = None if bound is None else bound.detach()
    return Posterior(
        backend=backend,
        target=target,
        status=status,
        horizon=info.horizon,
        log_evidence=log_evidence,
        elbo=elbo,
        values=None,
        q_values=None,
        action_probs=policy[:, :num_states],
        action_prior=prior[0, :num_states] if model is not None else prior,
        initial=full[0, :num_states],
        state_marginals=full[:, :num_states],
        absorbed=full[:, num_states:].sum(-1),
        believed_return=believed_return,
        luck=_luck(model, bound, believed_return, divergence),
        policy_divergence=divergence,
        policy_entropy=_entropy(model, full[: info.horizon, :num_states], policy[:, :num_states]),
        model=program,
        step_dynamics=lambda t: _dynamics(model, before[t], joints[t])[:num_states, :, :num_states],
        sampler=sampler,
        details=MappingProxyType(dict(details or {})),
    )


def _luck(model: TrajectoryModel | None, bound: Tensor | None, believed: Tensor, divergence: Tensor) -> Tensor | None:
    """What the bound leaves over once reward and policy are paid: KL of dynamics and start."""
    if bound is None or not bool(torch.isfinite(bound)):
        return None
    temperature, offset = (model.temperature, model.evidence_offset) if model is not None else (1.0, 0.0)
    return (believed / temperature - divergence - (bound - offset)).clamp(min=0)


def _entropy(model: TrajectoryModel | None, marginals: Tensor, policy: Tensor) -> Tensor:
    """Expected sum over live steps of the policy's entropy; every state of a program is live."""
    if model is not None:
        marginals = torch.where(model.live, marginals, torch.zeros((), dtype=torch.float64))
    return -weighted(marginals[..., None] * policy, safe_log(policy)).sum()


def _dynamics(model: TrajectoryModel | None, before: Tensor, joint: Tensor) -> Tensor:
    """q(s' | s, a) of a step; rows that q never visits from the true dynamics where they are known."""
    known = conditional(before, torch.full_like(before, 1.0 / before.shape[-1]))
    if model is not None:
        num_states = model.mdp.num_states
        known = known.clone()
        known[:num_states, :, :num_states] = model.mdp.dense() * model.survival[:, None, None]
    return conditional(joint, known)

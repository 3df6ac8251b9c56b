"""Posteriors of programs: built from the joint distribution of each step, for answers that know no tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from cai.inference.core.lazy import without_gradient
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import storable
from cai.inference.core.tabular import TabularPosterior
from cai.inference.programs.enumerated import EnumeratedProgram
from cai.inference.programs.guide import enumerate_program
from cai.models.common.numerics import plain_number, safe_log, weighted
from cai.models.programs.inspect import Program, ProgramInfo
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "JointDynamics",
    "Paths",
    "ProgramPosterior",
    "conditional",
    "prior_joints",
    "program_posterior",
    "step_joints",
]


def conditional(joint: Tensor, otherwise: Tensor) -> Tensor:
    """p(x | c) from p(c, x) along the last axis; rows without mass are taken from `otherwise`."""
    joint = joint.clamp(min=0)
    total = joint.sum(-1, keepdim=True)
    return torch.where(total > 0, joint / torch.where(total > 0, total, torch.ones_like(total)), otherwise)


def prior_joints(program: Program, info: ProgramInfo) -> list[Tensor]:
    """T tables [S, A, S] of p(s_t, a_t, s_{t+1}) in the program itself, optimality ignored."""
    with pyro_session(program=program), torch.no_grad():
        run = enumerate_program(program)
    return step_joints(run, info)


def step_joints(run: EnumeratedProgram, info: ProgramInfo) -> list[Tensor]:
    """T tables [S, A, S] (the last [S, A, 1] without s_{T+1}) of q(s_t, a_t, s_{t+1})."""
    steps = [(f"s_{t}", f"a_{t}", f"s_{t + 1}") for t in range(1, info.horizon + 1)]
    if info.has_last_state:
        return run.joints(steps)
    *joints, last = run.joints([*steps[:-1], steps[-1][:2]])
    return [*joints, last[..., None]]


class Paths(Protocol):
    """How whole trajectories of q are drawn and scored, where start, policy and dynamics are not all of it.

    Where it knows further latents it also has `marginal(site, size)`, [size] probabilities, and `sample_latents`, which
    returns states, actions and a dict of [N] by site.
    """

    def sample(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """States int64 [N, T + 1] ([N, T] without s_{T+1}), and actions int64 [N, T]."""

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N], log q of such trajectories in nats, further latents summed out."""


class ProgramPosterior(TabularPosterior):
    """A tabular answer to a Pyro program; of further latents it knows what `paths` knows.

    Attributes:
        info: the program from outside: its sites and their sizes.
        paths: how whole trajectories are drawn and scored; None where that was left behind with the program.
    """

    info: ProgramInfo
    paths: Paths | None
    kind = "program's"
    _of_program = ("model", "paths")

    @property
    def _state_times(self) -> int:
        return self.info.horizon + self.info.has_last_state

    def _further(self) -> tuple[str, ...]:
        return self.info.further

    def _observed_sites(self) -> tuple[str, ...]:
        return self.info.factors

    def _source(self, what: str) -> Any:
        if self.paths is None:
            raise self._unknown(what, "infer again", "its program was left behind when it was saved or pickled")
        return self.paths

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        source = self._source("how to draw trajectories")
        if latents and self.info.further:
            if not hasattr(source, "sample_latents"):
                raise self._unknown("how to draw further latents", "ask 'smc'")
            return source.sample_latents(num_samples, seed)
        return *source.sample(num_samples, seed), {}

    def _score(self, states: Any, actions: Any) -> Tensor:
        source = self._source("probabilities of whole trajectories")
        return source.log_prob(*self._checked(states, actions))

    def _further_marginal(self, site: str) -> Tensor:
        source = self._source(f"the marginal of {site!r}")
        if not hasattr(source, "marginal"):
            return super()._further_marginal(site)
        return source.marginal(site, self.info.sizes[site])


storable("program-info")(ProgramInfo)
storable("program-posterior", pack=ProgramPosterior._stored, unpack=ProgramPosterior._from_stored)(ProgramPosterior)


@storable("joint-dynamics")
class JointDynamics:
    """q(s_{t+1} | s_t, a_t) of a program, from joint tables of each step.

    Args:
        model: the `TrajectoryModel`, whose dynamics are the true ones; None for another program.
        before: T tables [S, A, S] of p(s_t, a_t, s_{t+1}) in the program itself; S counts the absorbing state.
        joints: the same of q.
    """

    model: TrajectoryModel | None
    before: list[Tensor]
    joints: list[Tensor]
    listed = False
    _stored_axes = {"before": "S A ... counts", "joints": "S A ... counts"}

    def __init__(self, model: TrajectoryModel | None, before: list[Tensor], joints: list[Tensor]) -> None:
        self.model, self.before, self.joints = model, before, joints

    def _check_held(self) -> None:
        if len(self.before) != len(self.joints):
            raise ValueError(f"before has {len(self.before)} tables and joints {len(self.joints)}; expected one a step")

    def __getstate__(self) -> dict[str, Any]:
        return {name: without_gradient(part) for name, part in vars(self).items()}

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """Of next states [S, A, S], and of a fall [S, A, 1]; rows that q never visits hold the program's own."""
        before, model = self.before[t], self.model
        known = conditional(before, torch.full_like(before, 1.0 / before.shape[-1]))
        num_states = before.shape[0] if model is None else model.mdp.num_states
        if model is not None:
            known = known.clone()
            known[:num_states, :, :num_states] = model.mdp.dense() * model.continuation_probability[:, None, None]
        rows = conditional(self.joints[t], known)[:num_states]
        return rows[..., :num_states], rows[..., num_states:]

    def divergence(self, t: int) -> Tensor | None:
        """None: further latents may have been paid for, which the tables do not show."""
        return None


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
    paths: Paths | None = None,
    before: list[Tensor] | None = None,
    details: Mapping[str, Any] | None = None,
) -> ProgramPosterior:
    """Builds the answer to a program from q's joints.

    Args:
        program: what was asked.
        info: its outside.
        joints: T tables [S, A, S] (the last [S, A, 1] without s_{T+1}) of q(s_t, a_t, s_{t+1}); S counts the absorbing
            state of a discount.
        backend: the name of the backend.
        target: what it approximates.
        status: how it ended.
        log_evidence: nats, 0-dim; None where it is not known.
        elbo: the bound that q attains, nats, 0-dim; None where it is not known.
        believed_return: expected sum of rewards under q, reward units, 0-dim.
        policy_divergence: KL of q's policy from the action prior along q, nats, 0-dim; or, of the policy [T, S, A], a
            function that finds it.
        paths: how trajectories of q are drawn and scored.
        before: tables as `joints` of the program itself; it is enumerated for them unless they are known.
        details: further numbers.
    """
    model = program if isinstance(program, TrajectoryModel) else None
    num_states = model.mdp.num_states if model is not None else info.num_states
    before = prior_joints(program, info) if before is None else before
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
    return ProgramPosterior(
        backend=backend,
        target=target,
        status=status,
        horizon=info.horizon,
        log_evidence=log_evidence,
        elbo=elbo,
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
        info=info,
        world=JointDynamics(model, before, joints),
        paths=paths,
        details=details,
    )


def _luck(model: TrajectoryModel | None, bound: Tensor | None, believed: Tensor, divergence: Tensor) -> Tensor | None:
    """What the bound leaves over once reward and policy are paid: KL of dynamics and start.

    Without gradients: what is measured on the enumerated run has none, and those of the bound alone would be wrong.
    """
    if bound is None or not bool(torch.isfinite(bound)):
        return None
    temperature, offset = (model.temperature, model.evidence_offset) if model is not None else (1.0, 0.0)
    left = believed / plain_number(temperature) - divergence - (bound - plain_number(offset))
    return left.detach().clamp(min=0)


def _entropy(model: TrajectoryModel | None, marginals: Tensor, policy: Tensor) -> Tensor:
    """Expected sum over live steps of the policy's entropy; every state of a program is nonterminal."""
    if model is not None:
        marginals = torch.where(model.nonterminal, marginals, torch.zeros((), dtype=torch.float64))
    return -weighted(marginals[..., None] * policy, safe_log(policy)).sum()

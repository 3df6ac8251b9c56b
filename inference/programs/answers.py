"""An enumerated q as an answer: the joints of its steps, what it earns and pays, and its tables to draw from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.programs.enumerated import EnumeratedProgram
from cai.inference.programs.guide import enumerate_program
from cai.inference.programs.posterior import program_posterior, step_joints
from cai.inference.programs.site_tables import SiteTables
from cai.inference.programs.svi import Fit
from cai.inference.tabular.backward import policy_backward
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics, TableDynamics
from cai.inference.tabular.policy_posterior import NO_GRADIENTS, asks_anywhere
from cai.inference.tabular.posterior import tabular_posterior
from cai.models.common.numerics import plain_number, safe_log, weighted
from cai.models.programs.inspect import Program, ProgramInfo
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["GuideAnswer", "posterior_of_run"]

logger = logging.getLogger("cai.inference")

GAP = 1e-6  # how far below log p(O) a bound may lie that is called exact, relative to its size once that exceeds 1 nat


@dataclass(frozen=True)
class GuideAnswer:
    """Makes the answer of a fitted guide.

    Attributes:
        backend: the name of the backend.
        target: what it approximates.
    """

    backend: str
    target: Target

    def __call__(self, program: Program, info: ProgramInfo, found: Fit) -> Posterior:
        """The posterior of a model by its tables, of any other program by its enumerated run."""
        if isinstance(program, TrajectoryModel):
            held = {"gradients": NO_GRADIENTS} if asks_anywhere(program) else {}
            with torch.no_grad():  # the guide's tables are held fixed
                return self._of_model(program, found, found.details | held)
        target, details = self.target, dict(found.details)
        if target is Target.EXACT and found.status is not Status.IMPOSSIBLE:
            gap, unseen = _left_out(program, found)
            if gap is not None:
                target = Target.OTHER
                sites = [f"{site} does not see {', '.join(others)}" for site, others in unseen.items()]
                why = "; ".join(sites[:3]) + ("; ..." if len(sites) > 3 else "") or "it has not converged"
                advice = "so it is not the exact posterior, which 'enumeration' gives"
                note = f"its bound lies {gap:.4g} nats below log p(O), {advice}: {why}"
                details |= {"gap": gap, "unseen": unseen, "note": note}
                logger.warning("%s: %s", self.backend, note)
        return posterior_of_run(
            program,
            info,
            found.run,
            backend=self.backend,
            target=target,
            status=found.status,
            log_evidence=None,
            elbo=found.bound,
            details=details,
        )

    def _of_model(self, model: TrajectoryModel, found: Fit, details: dict[str, Any]) -> Posterior:
        """Reads q's tables off the fitted guide."""
        num_states, run, steps = model.mdp.num_states, found.run, range(1, model.steps + 1)
        policy = torch.stack([run.table(f"a_{t}", (f"s_{t}",))[:num_states] for t in steps])
        dynamics: OutcomeDynamics = FixedDynamics(model)
        initial = model.mdp.initial
        if "s_1" in found.contexts:
            dynamics = TableDynamics(model, [_outcome_tables(model, found, t) for t in steps])
            initial = run.table("s_1", ())[:num_states]
        values, q_values = policy_backward(model, policy, dynamics)
        policy = torch.where(torch.isinf(values)[..., None], model.action_prior, policy)  # where p(O | s_t) = 0
        return tabular_posterior(
            model,
            backend=self.backend,
            target=self.target,
            status=found.status,
            log_evidence=None,
            elbo=found.bound,
            values=values,
            q_values=q_values,
            policy=policy,
            initial=initial,
            dynamics=dynamics,
            details=details,
        )


def _outcome_tables(model: TrajectoryModel, found: Fit, t: int) -> tuple[Tensor, Tensor]:
    """(alive, fallen) [S, A, K] of step t, from the conditionals of k_t and s_{t+1}."""
    mdp, run, names = model.mdp, found.run, (f"s_{t}", f"a_{t}")
    num_states = mdp.num_states
    leads = mdp.successors().expand_as(mdp.probabilities)[..., None]
    if model.has_outcome_sites:
        outcomes = run.table(f"k_{t}", names)[:num_states]
        following = run.table(f"s_{t + 1}", (*names, f"k_{t}"))[:num_states]
        alive = outcomes * following.gather(-1, leads)[..., 0]
        fallen = outcomes - alive if model.discount < 1 else torch.zeros_like(alive)
        return alive, fallen.clamp(min=0)
    following = run.table(f"s_{t + 1}", names)[:num_states]
    if mdp.next_states is None:
        share = torch.ones_like(mdp.probabilities)
    else:  # outcomes that share their next state share its probability
        total = mdp.to_next_states(mdp.probabilities).gather(-1, leads[..., 0])
        share = mdp.probabilities / torch.where(total > 0, total, torch.ones_like(total))
    alive = following.gather(-1, leads[..., 0]) * share
    fallen = torch.zeros_like(alive)
    if model.discount < 1:
        fallen = following[..., num_states:] * mdp.probabilities
    return alive, fallen


def _left_out(program: Program, found: Fit) -> tuple[float | None, dict[str, tuple[str, ...]]]:
    """How far q's bound stays below log p(O), None if it does not; and what its sites would have to see, by site."""
    with pyro_session(program=program), torch.no_grad():
        evidence, exact = enumerate_program(program).conditioned()
    gap = float(evidence) - float(found.bound)
    if not gap > GAP * max(1.0, abs(float(evidence))):
        return None, {}
    tables, unseen = SiteTables.of(exact), {}
    for site, context in tables.contexts.items():
        table = tables.tables[site]
        varies = [other for i, other in enumerate(context) if bool((table.amax(i) - table.amin(i) > 1e-9).any())]
        missing = tuple(other for other in varies if other not in found.contexts[site])
        if missing:
            unseen[site] = missing
    return gap, unseen


@torch.no_grad()  # q's tables are held fixed; log_evidence and elbo keep what they have
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
            believed = plain_number(model.temperature) * (believed - plain_number(model.evidence_offset))
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
        paths=SiteTables.of(run),
        before=step_joints(run.prior, info),
        details=details,
    )

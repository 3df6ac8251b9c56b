"""Pyro's own enumeration as an independent oracle for small problems and for any program of discrete sites."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer import TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.ops.einsum import torch_log
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.core.lazy import without_gradient
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import storable
from cai.inference.programs.enumerated import enumerate_program
from cai.inference.programs.exact_sites import ExactSites, support_logits
from cai.inference.programs.guide import JointProbe, drawn_sites
from cai.inference.programs.posterior import prior_joints, program_posterior
from cai.inference.programs.scoring import score_program
from cai.inference.programs.solve import DENSE_LIMIT, check_enumerable, check_program
from cai.models.common.numerics import safe_log, weighted
from cai.models.programs.inspect import Program, ProgramInfo, inspect_program, site_time
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Enumeration"]

SPAN_LIMIT = 650.0  # nats; Pyro multiplies probabilities that share a shift, and exp(-745) is 0 in float64


@dataclass(frozen=True)
class Enumeration:
    """The exact posterior by Pyro's `TraceEnum_ELBO` on the program, with no messages of our own.

    With an empty guide its loss is -log p(O). The gradient of log p(O) with respect to a factor that is added to a
    step is that step's joint posterior p(s_t, a_t, s_{t+1} | O), from which policy, dynamics and marginals are read.
    Rows that the posterior never visits keep the action prior and the true dynamics; `values` are not known.
    `Posterior.sample` draws exact trajectories by `infer_discrete`.
    """

    name: ClassVar[str] = "enumeration"
    target: ClassVar[Target] = Target.EXACT
    accepts: ClassVar[str] = "any program of discrete sites, small; weights within e^650"
    cost: ClassVar[str] = "T S A S time and memory, in Pyro"

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model is too large, has continuous sites, or weights too far apart for Pyro."""
        self._inspect(model)

    def _inspect(self, model: Any) -> ProgramInfo:
        if isinstance(model, TrajectoryModel):
            check_enumerable(model, self.name, "'exact'")
        info = inspect_program(model)
        check_program(info, self.name)
        with pyro_session(), torch.no_grad():
            run = enumerate_program(model)
        span = sum(_span(term.tensor) for terms in (run.log_q, run.factors) for term in terms.values())
        if span > SPAN_LIMIT:
            raise ValueError(
                f"backend {self.name!r} relies on Pyro's contraction, which loses weights more than {SPAN_LIMIT:g} "
                f"nats apart, and trajectories of this model may lie {span:.0f} apart: raise the temperature, shorten "
                "the horizon, or use 'exact' (for a program: 'optimistic')"
            )
        return info

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random, but the samples drawn from the answer."""
        info = self._inspect(model)
        joint, marginals = JointProbe(info), _MarginalProbe()
        with pyro_session(), torch.enable_grad(), exact_gradients():
            program = config_enumerate(joint(marginals(ExactSites()(model))), default="parallel")
            loss = TraceEnum_ELBO(max_plate_nesting=0).differentiable_loss(program, _empty_guide)
            log_evidence = -loss
            possible = bool(torch.isfinite(log_evidence))
            scores, priors = list(marginals.scores.values()), list(marginals.priors.values())
            if possible:
                leaves = [leaf for leaf, _ in (*scores, *priors)]
                gradients = torch.autograd.grad(log_evidence, [*joint.epsilons, *leaves], retain_graph=marginals.learns)
        if not possible:
            return _impossible(self, model, info)
        log_evidence = log_evidence if marginals.learns else log_evidence.detach()
        joints = list(gradients[: info.horizon])
        mass = [float(joint.sum()) for joint in joints]
        if any(abs(total - 1) > 1e-9 for total in mass):
            raise ValueError(
                f"backend {self.name!r} lost probability in Pyro's contraction (a step sums to {min(mass):.6g}); "
                "raise the temperature, or use 'exact' (for a program: 'optimistic')"
            )
        weights = gradients[info.horizon :]
        returns = sum(weighted(w, values).sum() for w, (_, values) in zip(weights, scores, strict=False))
        log_prior = sum(weighted(w, v).sum() for w, (_, v) in zip(weights[len(scores) :], priors, strict=True))

        def policy_divergence(policy: Tensor) -> Tensor:
            taken = torch.stack([joint.sum(-1) for joint in joints])
            return (weighted(taken, safe_log(policy)).sum() - log_prior).clamp(min=0)

        believed = torch.as_tensor(returns)
        if isinstance(model, TrajectoryModel):
            believed = model.temperature * (believed - model.evidence_offset)
        return program_posterior(
            model,
            info,
            joints,
            backend=self.name,
            target=self.target,
            status=Status.SUCCESS,
            log_evidence=log_evidence,
            elbo=log_evidence,
            believed_return=believed,
            policy_divergence=policy_divergence,
            paths=EnumeratedPaths(model, info, log_evidence),
        )


@storable("enumerated-paths")
@dataclass(frozen=True, eq=False)
class EnumeratedPaths:
    """Trajectories of the exact posterior of a program.

    Attributes:
        program: any trajectory program of discrete sites.
        info: its outside.
        log_evidence: of it, nats.
    """

    program: Program
    info: ProgramInfo
    log_evidence: Tensor

    def __getstate__(self) -> dict[str, Any]:
        return {name: without_gradient(part) for name, part in vars(self).items()}

    def sample(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """States int64 [N, T + 1] ([N, T] where the program draws no s_{T+1}), and actions int64 [N, T]."""
        return sample_posterior(self.program, self.info, num_samples, seed)

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N], log p(s, a | O) in nats, further latents summed out."""
        return score_program(self.program, states, actions) - self.log_evidence


@contextlib.contextmanager
def exact_gradients() -> Iterator[None]:
    """Pyro's log contraction with the true slope of its logarithm.

    Its own divides by no less than 2e-16, so that gradients, and the marginals that they are, fade away as soon as a
    message lies 36 nats below its shift; the values are right either way.
    """
    theirs = torch_log.safe_log
    torch_log.safe_log = safe_log
    try:
        yield
    finally:
        torch_log.safe_log = theirs


def sample_posterior(program: Program, info: ProgramInfo, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Exact trajectories of the posterior, by Pyro's `infer_discrete` under a plate of samples.

    Returns:
        States int64 [N, T + 1] ([N, T] where the program draws no s_{T+1}), and actions int64 [N, T].
    """
    step_bytes = 8 * info.num_states**2 * info.num_actions
    chunk = max(1, min(num_samples, DENSE_LIMIT // (8 * step_bytes)))
    last = info.horizon + info.has_last_state
    exactly = ExactSites()(program)
    states, actions = [], []
    with pyro_session(seed), torch.no_grad():
        for begin in range(0, num_samples, chunk):
            size = min(chunk, num_samples - begin)

            def many(size: int = size) -> None:
                with pyro.plate("_samples", size, dim=-1):
                    exactly()

            drawn = infer_discrete(
                config_enumerate(many, default="parallel"), first_available_dim=-2, strict_enumeration_warning=False
            )
            nodes = poutine.trace(drawn).get_trace().nodes
            states.append(drawn_sites(nodes, "s", last, size))
            actions.append(drawn_sites(nodes, "a", info.horizon, size))
    return torch.cat(states), torch.cat(actions)


class _MarginalProbe(Messenger):
    """Makes leaves of the factors and of the action priors, whose gradients are the marginals they are weighted by."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: dict[str, tuple[Tensor, Tensor]] = {}
        self.priors: dict[str, tuple[Tensor, Tensor]] = {}
        self.learns = False  # whether the program has parameters of its own that require grad

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or not msg["is_observed"] or msg["name"].startswith("_"):
            return
        if msg["infer"].get("_deterministic", False):
            return
        values = msg["fn"].log_factor  # `ExactSites` has made a factor of every observation
        leaf = torch.zeros_like(values).requires_grad_()
        self.learns = self.learns or values.requires_grad
        self.scores[msg["name"]] = (leaf, values.detach())
        msg["fn"] = Unit(values + leaf, validate_args=False)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        self.learns = self.learns or support_logits(msg["fn"]).requires_grad
        site = site_time(msg["name"])
        if site and site[0] == "a":
            values = msg["fn"].log_prob(msg["value"]).detach()
            leaf = torch.zeros_like(values).requires_grad_()
            self.priors[msg["name"]] = (leaf, values)
            pyro.factor(f"_prior_{site[1]}", leaf)


def _empty_guide() -> None:
    pass


def _span(log_weights: Tensor) -> float:
    finite = log_weights[torch.isfinite(log_weights)]
    return float(finite.max() - finite.min()) if finite.numel() else 0.0


def _impossible(backend: Enumeration, model: Any, info: ProgramInfo) -> Posterior:
    """The answer when p(O) = 0: the program's own prior, and the status."""
    nothing = torch.full((), -torch.inf, dtype=torch.float64)
    return program_posterior(
        model,
        info,
        prior_joints(model, info),
        backend=backend.name,
        target=backend.target,
        status=Status.IMPOSSIBLE,
        log_evidence=nothing,
        elbo=nothing,
        believed_return=nothing,
        policy_divergence=torch.zeros((), dtype=torch.float64),
    )

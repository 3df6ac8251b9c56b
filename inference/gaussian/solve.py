"""Answers of linear-Gaussian models by quadratic messages, for every tilt of the outcomes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.memory import Need
from cai.inference.core.status import Status, Target
from cai.inference.gaussian.envelope import asks_for_gradients, with_slopes
from cai.inference.gaussian.existence import Failure, critical_eta, digits_lost_to_caution, first_failure
from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.moments import account, believe, forward, luck_by_step
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, times
from cai.inference.gaussian.read import read_problem
from cai.inference.gaussian.rooted import (
    APART,
    LOST,
    SPARED,
    Rooted,
    at_risk,
    digits_lost,
    moved,
    policy_moved,
    refined,
    rooted_answer,
    shifted,
    with_digits_of,
)
from cai.inference.gaussian.square_roots import Passed, backward_in_roots
from cai.inference.gaussian.squares import smallest_share
from cai.inference.gaussian.stationary import stationary_posterior
from cai.models.continuous.linear_gaussian import LinearGaussianModel

__all__ = ["gaussian_need", "gaussian_posterior", "mean_trajectory", "require_answerable"]

INSTEAD = (
    "ask 'variational', which holds the dynamics fixed, or 'smc', or any backend of tables about "
    "cai.models.discretize(model, ...)"
)
NEAR = (
    "eta is so near to where messages break down that digits were lost: the answer is known to {:.0e} of itself; take "
    "an eta nearer to 0"
)
ALIKE = (
    "the action prior's L is so nearly singular that digits were lost: the answer is known to {:.0e} of itself; choose "
    "coordinates of actions whose noises are less alike, or leave out those that follow from others"
)
OUTWEIGHED = "noise outweighs rewards by so much that digits were lost: accounts are {:.1e} apart; scale W, S1 down"
# Of theta W P, below which a step of messages loses no digits to speak of, and by how much of what an answer earns and
# pays its accounts may be apart; by dtype.
STRONG = {torch.float64: 1e6, torch.float32: 1e2}
GAP = {torch.float64: 1e-9, torch.float32: 1e-3}
SHIFTED = {torch.float64: 1e-7, torch.float32: 1e-2}  # of what q does, likewise
TINY = 1e-300
UNKNOWN = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


def require_answerable(model: LinearGaussianModel, backend: str, eta: float) -> None:
    """Refuses a model that quadratic messages do not answer at a tilt of the outcomes.

    Raises:
        ValueError: if dynamics are tilted and the model is discounted or its horizon infinite; or if an infinite
            horizon has neither a discount nor the average criterion.
    """
    if not math.isfinite(eta):
        raise ValueError(
            f"backend {backend!r}: eta is {eta}, and the best and the worst Gaussian outcome lie at infinity; give a "
            "finite eta"
        )
    if eta != 0 and not model.is_finite:
        raise ValueError(
            f"backend {backend!r}: over an infinite horizon quadratic messages answer for fixed dynamics alone; ask "
            f"'variational', or give horizon=N{' and no discount' * (model.discount < 1)}"
        )
    if eta != 0 and model.discount < 1:
        raise ValueError(
            f"backend {backend!r}: the discount is {model.discount}, and with dynamics that are not held fixed its "
            f"absorbing outcome makes messages that are no quadratic functions; {INSTEAD}"
        )
    if model.is_finite:
        return
    if model.discount == 1 and not model.is_average:
        raise ValueError(
            f"backend {backend!r}: over an infinite horizon without a discount the sum of rewards has no limit; give "
            "discount below 1, criterion='average', or horizon=N"
        )
    if model.is_time_varying:
        raise ValueError(
            f"backend {backend!r}: matrices change with time and the horizon is infinite; give horizon=N, or matrices "
            "without a time axis"
        )


def gaussian_need(model: LinearGaussianModel) -> Need:
    """About what the messages of a model take, and all that is made of them."""
    n, m, members = model.state_dim, model.action_dim, max(1, math.prod(model.batch_shape))
    numbers = 12 * (n + m + 1) ** 2 * (model.steps + 1) * members
    what = f"quadratic messages, T = {model.steps:,}, n = {n}, m = {m}, {members:,} members"
    return Need(8 * numbers, what, "give a shorter horizon, or fewer members")


def gaussian_posterior(
    model: LinearGaussianModel, eta: float, *, backend: str, target: Target, details: dict[str, Any] | None = None
) -> GaussianPosterior:
    """The answer at a tilt of the outcomes: 1 for the exact posterior, 0 for fixed dynamics, below 0 for caution.

    Args:
        model: the linear-Gaussian model.
        eta: the tilt, finite.
        backend: the name of the backend.
        target: `exact` and `fixed-dynamics` take their bound from the last message; of others it is what q attains.
        details: further numbers of the backend.

    Raises:
        ValueError: see `require_answerable`.
    """
    require_answerable(model, backend, eta)
    model = model if model.is_finite else model.host  # where long runs settle to the last digit
    problem, found = read_problem(model), dict(details or {})
    if model.is_flat:
        found["note"] = "evidence, bound and entropy are relative to da, the action prior being flat"
    common: dict[str, Any] = {"backend": backend, "target": target, "model": model, "horizon": model.horizon}
    if not (share := _lost_to_prior(problem)) <= LOST[problem.mean.dtype]:
        return _inaccurate(problem, None, common, found, ALIKE.format(share))
    if not model.is_finite:
        return stationary_posterior(problem, common, found, average=model.is_average)
    messages = backward(problem, eta)
    risky = at_risk(problem, messages)
    messages, passed, shaken, rooted, lost = _passed_again(problem, messages, risky)
    failure = first_failure(problem, messages, rooted)
    if failure is not None:
        return failed_posterior(problem, failure, eta, common, found)
    if not (share := float(lost.max())) <= LOST[problem.mean.dtype]:
        return _inaccurate(problem, messages, common, found, APART.format(share))
    if eta < 0 and not (share := float(digits_lost_to_caution(problem, messages).max())) <= LOST[problem.mean.dtype]:
        return _inaccurate(problem, messages, common, found, NEAR.format(share))
    does = dict[str, Any]()
    if passed is not None and shaken is not None:
        better, other = (rooted_answer(problem, part.messages, part.pushes) for part in (passed, shaken))
        if not (share := float(shifted(problem, better, other)[rooted].max())) <= SHIFTED[problem.mean.dtype]:
            return _inaccurate(problem, messages, common, found, APART.format(share))
        messages, does = _what_q_does(problem, messages, passed, better, rooted)
    bound = messages.start / problem.temperature
    found["start"] = _plain(bound)
    parts = common | {"problem": problem, "messages": messages, "status": Status.SUCCESS}
    if target is Target.EXACT:
        parts |= {"log_evidence": bound, "elbo": bound}
    elif target is Target.FIXED_DYNAMICS:
        parts |= {"elbo": bound}
    answer = GaussianPosterior(**parts, **does, details=found)
    if eta != 0 and not (gap := _gap(answer, problem, messages, eta)) <= GAP[problem.mean.dtype]:
        return _inaccurate(problem, messages, common, found, OUTWEIGHED.format(gap))
    return _with_attained_bound(answer) if target is Target.OTHER else answer


def _passed_again(
    problem: GaussianProblem, messages: Messages, risky: Tensor
) -> tuple[Messages, Passed | None, Passed | None, Tensor, Tensor]:
    """The messages, in square roots where digits are at risk; V(start) is yet to follow where it has gradients.

    Returns:
        The messages; the pass in roots; the same shaken; bool [...], of which members they hold; and [...], what is
        lost of a policy or V(start).
    """
    lost = torch.zeros_like(risky, dtype=problem.mean.dtype)
    if not bool(risky.any()):
        return messages, None, None, risky, lost
    passed = backward_in_roots(problem, messages, slopes=asks_for_gradients(problem))
    if passed is None or not bool((risky & passed.members).any()):
        lost = torch.where(risky, digits_lost(problem, messages), lost)
        return messages, None, None, torch.zeros_like(risky), lost
    better, rooted = passed.messages, risky & passed.members
    shaken = backward_in_roots(problem, messages, shaken=True)
    assert shaken is not None
    lost = torch.where(rooted, moved(problem, better, shaken.messages), lost)
    if bool((lost > LOST[lost.dtype]).any()):
        # As where completed squares outweigh V(start), which the plain pass keeps.
        plain = digits_lost(problem, messages)
        acted = torch.maximum(*(policy_moved(problem, better, other) for other in (messages, shaken.messages)))
        spared = (lost > LOST[lost.dtype]) & (plain <= SPARED[lost.dtype]) & (acted <= SPARED[lost.dtype])
        rooted, lost = rooted & ~spared, torch.where(spared, plain, lost)
        risky = risky & ~spared
        if not bool(rooted.any()):
            return messages, None, None, rooted, torch.where(risky, plain, lost)
    if not bool(rooted.equal(risky)):
        lost = torch.where(risky & ~rooted, digits_lost(problem, messages), lost)
    made = replace(with_digits_of(messages, better, rooted), chosen=messages.chosen | rooted[..., None])
    made = made if passed.kept is None else replace(made, start=messages.start)
    return made, passed, shaken, rooted, lost


def _what_q_does(
    problem: GaussianProblem, messages: Messages, passed: Passed, better: Rooted, rooted: Tensor
) -> tuple[Messages, dict[str, Any]]:
    """The messages with V(start), and the parts of an answer that follow, those of some members in square roots."""
    if passed.kept is not None:
        messages = replace(messages, start=with_slopes(problem, messages.start, passed, better, rooted))
    belief, policy = believe(problem, messages), GaussianPrior(messages.gain, messages.offset, messages.covariance)
    moments = forward(belief, policy)
    lucks = luck_by_step(problem, messages, belief, moments)
    paid = account(problem, messages, belief, policy, moments)
    plain = (belief, moments, lucks, paid)
    names = ("belief", "moments", "lucks", "account")
    return messages, {name: refined(one, two, rooted) for name, one, two in zip(names, plain, better[:4], strict=True)}


def _lost_to_prior(problem: GaussianProblem) -> float:
    """About by what share of itself the action prior's L^-1 is off, which is computed from L; 0 without a prior."""
    if problem.prior is None or not problem.num_actions:
        return 0.0
    covariance = problem.prior.covariance
    return torch.finfo(covariance.dtype).eps / max(float(smallest_share(covariance).min()), TINY)


def _inaccurate(
    problem: GaussianProblem, messages: Messages | None, common: dict[str, Any], details: dict[str, Any], why: str
) -> GaussianPosterior:
    """What is left where digits were lost: the status, and why."""
    common = common | {"problem": problem, "messages": messages, "status": Status.OUT_OF_RANGE}
    return GaussianPosterior(**common, **dict.fromkeys(UNKNOWN), details=details | {"why": why})


def _gap(answer: GaussianPosterior, problem: GaussianProblem, messages: Messages, eta: float) -> float:
    """How far V(start) is from E r - alpha KL - alpha luck / eta, relative to these; 0 where no digits can be lost."""
    with torch.no_grad():
        noises = (problem.noise.flatten(-3), problem.covariance.flatten(-2))
        size = torch.maximum(*(part.abs().amax(-1) for part in noises))
        strength = messages.theta.abs() * size * messages.cost_to_go.P.flatten(-3).abs().amax(-1)
        strong = strength > STRONG[problem.mean.dtype]
        if not bool(strong.any()):
            return 0.0
        paid = answer.account
        parts = (paid.believed_return / problem.temperature, paid.policy_divergence, paid.luck / eta)
        size = torch.stack([part.abs() for part in torch.broadcast_tensors(*parts)]).amax(0)
        apart = (parts[0] - parts[1] - parts[2] - messages.start / problem.temperature).abs() / size
        return float(torch.where(strong, apart, 0.0).max())


def _with_attained_bound(answer: GaussianPosterior) -> GaussianPosterior:
    """The answer with the bound that its q attains: believed return / alpha minus all that it pays."""
    paid, alpha = answer.account, answer.problem.temperature
    answer.__dict__["elbo"] = paid.believed_return / alpha - paid.policy_divergence - paid.luck
    return answer


def failed_posterior(
    problem: GaussianProblem, failure: Failure, eta: float, common: dict[str, Any], details: dict[str, Any]
) -> GaussianPosterior:
    """What is left where a message has no finite value: the status, and where and why it broke down."""
    details |= {"why": failure.sentence(), "step": failure.step, "eigenvalue": failure.eigenvalue}
    details["failed"] = failure.kind
    if failure.step is None:
        details["step"] = "start"
    if failure.member:
        details["member"] = list(failure.member)
    status = Status.INFINITE
    if failure.kind == "overflow":
        status, details["eigenvalue"] = Status.OUT_OF_RANGE, None
    elif eta < 0:
        details["eta_crit"] = critical_eta(read_problem(common["model"].host), eta, failure)
        if details["eta_crit"] is not None:
            details["why"] += f"; it breaks down below eta = {details['eta_crit']:.6g}"
    return GaussianPosterior(**common, **dict.fromkeys(UNKNOWN), problem=problem, status=status, details=details)


def mean_trajectory(exact: GaussianPosterior, *, backend: str) -> GaussianPosterior:
    """The most probable trajectory of a Gaussian answer, its mean, as a q that is certain of it.

    Densities have no KL from a certainty, so no bound is known; the believed return is that of the trajectory.
    """
    certain = torch.zeros_like
    belief = exact.belief
    means = exact.moments
    policy = exact.conduct
    parts = {
        "belief": belief._replace(noise=certain(belief.noise), covariance=certain(belief.covariance)),
        "conduct": policy._replace(covariance=certain(policy.covariance)),
    }
    unknown = dict.fromkeys(name for name in UNKNOWN if name != "believed_return")
    answer = GaussianPosterior(
        backend=backend,
        target=Target.OTHER,
        status=exact.status,
        model=exact.model,
        horizon=exact.horizon,
        problem=exact.problem,
        details={"mean": "of the exact posterior"},
        believed_return=_return_of(exact.problem, means.state_means, means.action_means),
        **unknown,
        **parts,
    )
    return answer


def _return_of(problem: GaussianProblem, states: Tensor, actions: Tensor) -> Tensor:
    """[...], the rewards of one trajectory added up."""
    z = torch.cat([states[..., :-1, :], actions], -1)
    steps = (z * (times(problem.cost, z) / 2 + problem.linear)).sum(-1) + problem.constant
    return -(steps.sum(-1) + problem.final(states[..., -1, :]))


def _plain(value: Tensor) -> Any:
    """A number of one answer, or the tensor of a batch of them."""
    return float(value.detach()) if value.dim() == 0 else value.detach()

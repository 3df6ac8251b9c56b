"""Infinite horizons with fixed dynamics: the stationary Riccati solution, discounted or per step of the long run.

The quadratic part P of the message is the limit of finite horizons, found by doubling them (Anderson 1978,
Second-order convergent algorithms for the steady-state Riccati equation): after k rounds it is that of 2^k steps. Its
linear part then solves one linear system, and its constant is one division by 1 - discount, or what a step gains where
there is no discount.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.gaussian.envelope import asks_for_gradients, with_slopes_of
from cai.inference.gaussian.existence import first_failure
from cai.inference.gaussian.long_run import (
    MARGIN,
    average_account,
    discounted_account,
    entry_size,
    expected,
    geometric_sum,
    largest_modulus,
    lift,
    long_run_law,
)
from cai.inference.gaussian.messages import Messages, backward, outcome_step
from cai.inference.gaussian.moments import believe
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, symmetric, times
from cai.inference.gaussian.rooted import (
    APART,
    FAR_APART,
    LOST,
    SPARED,
    at_risk,
    digits_lost,
    policy_moved,
    refined,
    with_digits_of,
)
from cai.inference.gaussian.square_roots import backward_in_roots

__all__ = ["stationary_posterior"]

ROUNDS = 60  # of doubling: horizons up to 2^60 steps
SETTLED = 1e-14  # relative change of P
RESIDUAL = 1e-9  # relative, of the stationary equation
UNEVEN = 1e4  # of the largest eigenvalue to the smallest, above which doubling loses digits
DOUBLED = 1e-12  # relative, of the stationary equation after doubling
TINY = 1e-300
FOLLOWED = 16  # steps over which lost digits add up
LONG = ((256, 0.2), (1024, 1e-3), (4096, 0.0))  # steps of messages in roots, and what is near enough to take more
ROOTS_SETTLED = (1e-13, 1e-10, 1e-10)  # relative changes of P, K and p in a step; the latter two keep fewer digits
UNKNOWN = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


def stationary_posterior(
    problem: GaussianProblem, common: dict[str, Any], details: dict[str, Any], *, average: bool
) -> GaussianPosterior:
    """The answer over an infinite horizon with fixed dynamics.

    Args:
        problem: of one step.
        common: backend, target, model and horizon of the answer.
        details: its further numbers.
        average: whether numbers are per step of the long run (discount 1); then values are relative, with mean 0 under
            the stationary law, and no bound is known.
    """
    problem = replace(problem, endless=True)
    last = backward(problem)
    failure, whole = first_failure(problem, last), True
    if failure is not None:  # which may be a pivot that floats of Haa round away, and its square root holds
        passed, whole = backward_in_roots(problem, last), False
        if passed is not None and bool(passed.members.all()):
            failure = first_failure(problem, passed.messages, passed.members)
    if failure is not None:  # then the last step of every finite horizon has no finite value
        found = details | {"step": "last", "eigenvalue": failure.eigenvalue, "failed": failure.kind}
        return _failed(problem, common, found, failure.sentence(), Status.INFINITE)
    P, settled = _limit(problem)
    doubled = whole and bool(settled.all())
    uneven = not doubled or _is_uneven(problem, P)
    rooted = _in_roots(problem, last) if uneven else None
    if rooted is None and not doubled:
        why = "values of longer and longer horizons grow without end"
        return _failed(problem, common, details, why, good=settled)
    every = torch.ones(problem.batch, dtype=torch.bool, device=P.device)
    if rooted is not None and not doubled:
        P = refined(P, rooted[0].first.P, every)  # which has no gradients, as that of doubling is lost
    gain = backward(_followed_by(problem, P, torch.zeros_like(P[..., 0]))).gain[..., 0, :, :]
    if rooted is not None:
        gain = refined(gain, rooted[0].gain[..., 0, :, :], every)
    closed = problem.A[..., 0, :, :] + problem.B[..., 0, :, :] @ gain
    moduli = torch.linalg.eigvals(closed.detach()).abs().amax(-1)
    if average and not (largest := float(moduli.max())) < 1 - MARGIN:
        why = f"under its policy the chain has no stationary law: an eigenvalue of A + B K has modulus {largest:.6g}"
        return _failed(problem, common, details, why, Status.NOT_ASSURED, good=moduli < largest)
    messages, per_step = _completed(problem, P, gain, closed)
    if rooted is not None:
        messages, per_step = with_digits_of(messages, rooted[0], every), rooted[1]
        P = messages.first.P
    if not bool(torch.isfinite(messages.first.p).all()):
        why = "what is earned in proportion to the state grows faster than the discount shrinks it"
        return _failed(problem, common, details, why, good=messages.first.p.isfinite().all(-1))
    failure = first_failure(problem, messages, None if rooted is None else every)
    if failure is not None:
        return _failed(problem, common, details | {"eigenvalue": failure.eigenvalue}, failure.sentence())
    holds = entry_size(messages.first.P - P) <= RESIDUAL * entry_size(P)
    if not bool(holds.all()):
        why = "doubled horizons settle where no stationary equation holds"
        return _failed(problem, common, details, why, good=holds)
    share = 0.0 if not uneven else _digits_lost(problem, messages) if rooted is None else rooted[2]
    if not share <= LOST[P.dtype]:
        return _failed(problem, common, details, APART.format(share), Status.OUT_OF_RANGE)
    policy = GaussianPrior(messages.gain, messages.offset, messages.covariance)
    sizes = P.detach().diagonal(dim1=-2, dim2=-1).abs()
    apart = uneven or bool((sizes.amax(-1) > FAR_APART[P.dtype] * sizes.amin(-1)).any())
    if apart and asks_for_gradients(problem):
        messages, per_step = _with_slopes(problem, messages, per_step, policy, average=average)
    parts = common | {"problem": problem, "conduct": policy, "belief": believe(problem, messages)}
    parts |= {"status": Status.SUCCESS}
    if average:
        return _averaged(problem, messages, -per_step, parts, details)
    bound = messages.start / problem.temperature
    details["start"] = float(bound.detach()) if bound.dim() == 0 else bound.detach()
    paid = discounted_account(problem, policy, messages.width)
    return GaussianPosterior(**parts, messages=messages, account=paid, elbo=bound, details=details)


def _digits_lost(problem: GaussianProblem, messages: Messages) -> float:
    """About by what share of itself the policy is off, that of a batch which is off most; see `rooted.digits_lost`."""
    ahead = replace(problem, horizon=FOLLOWED, final=messages.first)
    return float(digits_lost(ahead, backward(ahead)).max())


def _with_slopes(
    problem: GaussianProblem, messages: Messages, per_step: Tensor, policy: GaussianPrior, *, average: bool
) -> tuple[Messages, Tensor]:
    """Messages and what a step costs, of which V(start), or else the latter, has the gradients of the policy's worth.

    V(start) is the most that a policy is worth, so that its gradient is that of the best one's, which is held.
    """
    held, width = GaussianPrior(*(part.detach() for part in policy)), messages.width.detach()

    def worth(problem: GaussianProblem) -> Tensor:
        if average:
            law = long_run_law(problem, held)
            assert law is not None  # the chain is stable, as was seen
            paid = average_account(problem, held, width, law)
        else:
            paid = discounted_account(problem, held, width)
        return paid.believed_return - problem.temperature * paid.policy_divergence

    if average:
        return messages, -with_slopes_of(worth, problem, -per_step, -per_step.detach())
    return replace(messages, start=with_slopes_of(worth, problem, messages.start, messages.start.detach())), per_step


def _averaged(
    problem: GaussianProblem, messages: Messages, gain: Tensor, parts: dict[str, Any], details: dict[str, Any]
) -> GaussianPosterior:
    """The answer per step of the long run; values are relative to each other."""
    policy: GaussianPrior = parts["conduct"]
    law = long_run_law(problem, policy)
    assert law is not None  # the chain is stable, as was seen
    first, (P, p, rho) = messages.first, messages.cost_to_go
    shift = -expected(Quadratic(first.P, first.p, torch.zeros_like(first.rho)), law)
    relative = replace(messages, cost_to_go=Quadratic(P, p, shift[..., None].expand_as(rho)))
    details |= {"gain": float(gain.detach()) if gain.dim() == 0 else gain.detach()}
    details |= {"stationary_mean": law.mean.detach(), "stationary_covariance": law.covariance.detach()}
    paid = average_account(problem, policy, messages.width, law)
    return GaussianPosterior(**parts, messages=relative, account=paid, average_reward=gain, details=details)


def _failed(
    problem: GaussianProblem,
    common: dict[str, Any],
    details: dict[str, Any],
    why: str,
    status: Status = Status.DIVERGED,
    good: Tensor | None = None,
) -> GaussianPosterior:
    """What is left where there is no answer; `good` [...] says which members of a batch are not to blame."""
    unknown = dict.fromkeys(UNKNOWN)
    if problem.batch and good is not None:
        member = torch.nonzero(~good.expand(problem.batch))[0].tolist()
        details, why = details | {"member": member}, f"{why}, in batch member {member}"
    return GaussianPosterior(**common, **unknown, problem=problem, status=status, details=details | {"why": why})


# ---- the message ------------------------------------------------------------------------------------------------


def _limit(problem: GaussianProblem) -> tuple[Tensor, Tensor]:
    """P [..., n, n], the limit of finite horizons, and bool [...], for which members there is one."""
    n, root, problem = problem.num_states, problem.discount**0.5, problem.centred()
    cost = problem.folded().P[..., 0, :, :].expand(*problem.batch, -1, -1)
    A, B = problem.A[..., 0, :, :], problem.B[..., 0, :, :]
    factor, _ = torch.linalg.cholesky_ex(cost[..., n:, n:])
    freed = torch.cholesky_solve(cost[..., n:, :n], factor)
    A = root * (A - B @ freed)
    G = problem.discount * B @ torch.cholesky_solve(B.mT.expand(*factor.shape[:-2], *B.mT.shape[-2:]), factor)
    P = symmetric(cost[..., :n, :n] - cost[..., :n, n:] @ freed)
    own = torch.eye(n, dtype=P.dtype, device=P.device)
    for _ in range(ROUNDS):
        solved = torch.linalg.solve_ex(own + G @ P, torch.cat([A.expand_as(P), G.expand_as(P)], -1)).result
        across, spread = solved[..., :n], solved[..., n:]
        A, G, change = A @ across, symmetric(G + A @ spread @ A.mT), A.mT @ (P @ across)
        P = symmetric(P + change)
        size = entry_size(P)
        finite = torch.isfinite(size)
        settled = finite & (entry_size(change) <= SETTLED * size)
        if bool((settled | ~finite).all()):
            break
    return P, settled


@torch.no_grad()
def _is_uneven(problem: GaussianProblem, P: Tensor) -> bool:
    """Whether small costs lie beside large ones, in P with a diagonal of 1 or in Haa, or doubling lost digits of P."""
    ahead = _followed_by(problem, P, torch.zeros_like(P[..., 0]))
    messages = backward(ahead)
    if not bool((entry_size(messages.first.P - P) <= DOUBLED * entry_size(P)).all()):
        return True
    closed = problem.A[..., 0, :, :] + problem.B[..., 0, :, :] @ messages.gain[..., 0, :, :]
    if problem.discount == 1 and not largest_modulus(closed) < 1 - MARGIN:  # the other root of the equation, maybe
        return True
    if bool(at_risk(ahead, messages).any()) and not _digits_lost(problem, messages) <= SPARED[P.dtype]:
        return True
    sizes = P.diagonal(dim1=-2, dim2=-1)
    if not bool((sizes > 0).all()):
        return False
    scale = sizes.sqrt()
    values = torch.linalg.eigvalsh(P / (scale[..., None] * scale[..., None, :]))
    return bool((values[..., 0] < values[..., -1] / UNEVEN).any())


@torch.no_grad()
def _in_roots(problem: GaussianProblem, last: Messages) -> tuple[Messages, Tensor, float] | None:
    """The limit by messages of long horizons in square roots; what a step adds to their constant, [...]; what is lost.

    What is lost is by what share of itself the policy moves where each step is shaken by as much as its rounding.

    Args:
        problem: of one step.
        last: the messages of that step alone.

    Returns:
        None where costs are no sums of squares, or nothing settles within a few thousand steps.
    """
    for steps, near in LONG:
        passed = backward_in_roots(replace(problem, horizon=steps), last)
        if passed is None or not bool(passed.members.all()):
            return None
        found, (P, p, rho) = passed.messages, passed.messages.cost_to_go
        pairs = [part[..., :2, :, :].unbind(-3) for part in (P, found.gain, p[..., None])]
        apart = [float((entry_size(now - then) / entry_size(now).clamp(min=TINY)).max()) for now, then in pairs]
        if all(change <= enough for change, enough in zip(apart, ROOTS_SETTLED, strict=True)):
            break
        if not max(apart) <= near:
            return None
    made = _stationary(problem, last, found)
    shaken = backward_in_roots(replace(problem, horizon=steps), last, shaken=True)
    assert shaken is not None
    lost = float(policy_moved(problem, made, _stationary(problem, last, shaken.messages)).max())
    return made, rho[..., 0] - problem.discount * rho[..., 1], lost


def _stationary(problem: GaussianProblem, last: Messages, found: Messages) -> Messages:
    """The first of many steps as the only one; see `_in_roots`."""
    P, p, rho = found.cost_to_go
    per_step = rho[..., 0] - problem.discount * rho[..., 1]
    rest = per_step / (1 - problem.discount) if problem.discount < 1 else torch.zeros_like(per_step)
    first = Quadratic(P[..., 0, :, :], p[..., 0, :], rest)
    both = [torch.stack((part, part), -1 - axes) for part, axes in zip(first, (2, 1, 0), strict=True)]
    own = {name: getattr(found, name)[..., :1, :, :] for name in ("gain", "action_cost", "root")}
    return replace(
        last,
        **own,
        offset=found.offset[..., :1, :],
        cost_to_go=Quadratic(*both),
        start=-outcome_step(first, problem.covariance, None)(problem.mean),
    )


def _completed(problem: GaussianProblem, P: Tensor, gain: Tensor, closed: Tensor) -> tuple[Messages, Tensor]:
    """The stationary messages whose quadratic part is P, and what a step adds to their constant, [...].

    Args:
        problem: of one step.
        P: [..., n, n].
        gain: [..., m, n], K of the policy.
        closed: [..., n, n], A + B K.
    """
    if problem.prior is not None:
        gain = gain - problem.prior.gain[..., 0, :, :]
    discount, lifted, centred = problem.discount, lift(gain), problem.centred()
    right = times(lifted.mT, centred.linear[..., 0, :]) + discount * times(
        closed.mT, times(P, centred.offset[..., 0, :])
    )
    p = geometric_sum(discount * closed.mT, right)
    messages = backward(_followed_by(problem, P, p))
    per_step = messages.first.rho
    if discount < 1:
        messages = backward(_followed_by(problem, P, p, per_step / (1 - discount)))
    return messages, per_step


def _followed_by(problem: GaussianProblem, P: Tensor, p: Tensor, rho: Tensor | None = None) -> GaussianProblem:
    """The problem of one step, after which a state costs 1/2 s'P s + p's + rho."""
    return replace(problem, final=Quadratic(P, p, torch.zeros_like(p[..., 0]) if rho is None else rho))

"""What q does, in square roots: believed dynamics, moments and accounts where messages were passed in roots.

A covariance is S'S here, with rows S [..., k, n]: what is far smaller in one direction than in another keeps digits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.status import NotKnown
from cai.inference.gaussian.messages import Messages
from cai.inference.gaussian.moments import Account, Belief, Moments, alive, divergence_parts, entropies_of_widths
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, at_steps, symmetric, times
from cai.inference.gaussian.spectrum import log_det_excess
from cai.inference.gaussian.square_roots import Push
from cai.inference.gaussian.squares import Squares, factor, spread_over, squares_of, triangle

__all__ = [
    "APART",
    "FAR_APART",
    "KEPT",
    "LOST",
    "SPARED",
    "Rooted",
    "at_risk",
    "digits_lost",
    "moved",
    "policy_moved",
    "refined",
    "rooted_answer",
    "shifted",
    "with_digits_of",
]

STEPS = ("A", "noise", "shrunk")  # of a belief, what is held against itself step by step
KEPT = {torch.float64: 1e-8, torch.float32: 1e-3}  # of numbers, by which they may be off and have gradients
# Of a policy, which it may be off by where no square roots keep its digits.
LOST = {torch.float64: 1e-8, torch.float32: 1e-2}
SPARED = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the plain pass, where it keeps more than square roots do
APART = (
    "costs or covariances are so far apart that digits were lost: the answer is known to {:.0e} of itself; bring them "
    "nearer to each other (matrices that are singular but for rounding count, and costs with an eigenvalue below 0)"
)
REFUSED = (
    "an answer whose costs or noises are so many orders apart that it was passed in square roots",
    "bring them nearer to each other, ask for those of its bound or evidence, or take differences of answers",
)
# Of the largest cost to what is left of it after a step, or to the cost of an action, above which digits are lost.
FAR_APART = {torch.float64: 1e4, torch.float32: 1e2}


class Rooted(NamedTuple):
    """What q does, in square roots.

    Attributes:
        belief: q's dynamics and start.
        moments: along q.
        lucks: [..., T + 1], the luck of the start and of each step, nats.
        account: what q earns and pays.
        roots: [..., T + 1, n, n], rows S of the covariances S'S of states.
    """

    belief: Belief
    moments: Moments
    lucks: Tensor
    account: Account
    roots: Tensor


@torch.no_grad()
def at_risk(problem: GaussianProblem, messages: Messages) -> Tensor:
    """Bool [...], whether costs of messages are so far apart that small ones lose digits beside large ones."""
    P, theta = messages.cost_to_go.P, messages.theta
    sizes = P.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    centred = problem.centred()
    stages = centred.cost.diagonal(dim1=-2, dim2=-1)[..., : problem.num_states].abs().amax(-1)
    later = torch.cat([torch.maximum(sizes[..., 1:], stages), sizes[..., -1:]], -1).flip(-1).cummax(-1).values.flip(-1)
    ratio = torch.where(later > 0, later / sizes, 0.0).amax(-1)
    ratio = torch.maximum(ratio, _shares((centred.constant - problem.constant).abs().amax(-1), messages.start))
    if problem.num_actions and problem.horizon:
        reach = problem.B.square().sum(-2) * sizes[..., 1:, None]
        reach = torch.maximum(reach, messages.root.square().sum(-1)) / messages.root.diagonal(dim1=-2, dim2=-1).square()
        ratio = torch.maximum(ratio, torch.where(messages.chosen, reach.amax(-1), torch.inf).amax(-1))
    if bool((theta != 0).any()):
        noises = [problem.noise.diagonal(dim1=-2, dim2=-1).flatten(-2), problem.covariance.diagonal(dim1=-2, dim2=-1)]
        ratio = torch.maximum(ratio, theta.abs() * later[..., 0] * torch.maximum(*(part.amax(-1) for part in noises)))
    return ~(ratio <= FAR_APART[P.dtype])


@torch.no_grad()
def digits_lost(problem: GaussianProblem, messages: Messages) -> Tensor:
    """[...], about by what share of themselves gains and covariances of a policy are off, or somewhat less.

    Each message is rounded to its largest entry; what follows from such a rounding is passed on as messages are, with
    E = eps |P| I in place of P, and held against the cost of an action: tr(Haa^-1 B'E B), Haa^-1 B'E (A + B K) / |K|.
    Haa, with a diagonal of 1, is rounded to eps.
    """
    given = messages.gain if problem.prior is None else messages.gain - problem.prior.gain
    problem = problem.centred()
    shape, n, horizon, P = problem.batch, problem.num_states, problem.horizon, messages.cost_to_go.P
    own, eps = torch.eye(n, dtype=P.dtype, device=P.device), torch.finfo(P.dtype).eps
    parts = [(problem.A, 2), (problem.B, 2), (problem.noise, 2), (given, 2), (messages.root, 2)]
    steps = [[spread_over(step, shape, axes) for step in at_steps(part, axes, horizon)] for part, axes in parts]
    costs = [problem.cost[..., :n, :n], problem.cost[..., n:, n:]]
    costs = [torch.linalg.matrix_norm(part) for part in costs]
    states, actions = ([spread_over(step, shape, 0) for step in at_steps(part, 0, horizon)] for part in costs)
    E, lost = P.new_zeros(*shape, n, n), P.new_zeros(shape)
    own_actions = torch.eye(problem.num_actions, dtype=P.dtype, device=P.device)
    for t in reversed(range(horizon)):
        A, B, W, K, root = (part[t] for part in steps)
        after = P[..., t + 1, :, :]
        E = E + eps * torch.linalg.matrix_norm(after)[..., None, None] * own
        if bool((messages.theta != 0).any()):
            shrunk = torch.linalg.inv_ex(own + messages.theta[..., None, None] * W @ after).inverse
            E = shrunk.mT @ E @ shrunk
        closed, reach = A + B @ K, torch.linalg.solve_triangular(root, B.mT, upper=False)
        sizes = torch.linalg.matrix_norm(messages.gain[..., t, :, :])
        off = torch.linalg.matrix_norm(torch.cholesky_solve(B.mT @ E @ closed, root))
        off = torch.where(sizes > 0, off / sizes, 0.0)
        scaled = root / torch.linalg.vector_norm(root, dim=-1, keepdim=True)
        inner = torch.linalg.solve_triangular(scaled, own_actions, upper=False)
        spread = eps * inner.square().sum((-2, -1)) + (reach @ E @ reach.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        lost = torch.maximum(lost, torch.maximum(off, spread))
        E = closed.mT @ E @ closed + eps * (states[t] + K.square().sum((-2, -1)) * actions[t])[..., None, None] * own
    first = problem.mean[..., None]
    return torch.maximum(
        lost, _shares(((first.mT @ E @ first)[..., 0, 0] + (E * problem.covariance).sum((-2, -1))) / 2, messages.start)
    )


@torch.no_grad()
def policy_moved(problem: GaussianProblem, messages: Messages, others: Messages) -> Tensor:
    """[...], by what share of themselves gains, offsets and covariances of other messages differ.

    Offsets are held against the widths of actions, too.
    """
    leaning = messages.gain if problem.prior is None else torch.maximum(messages.gain.abs(), problem.prior.gain.abs())
    gains = _shares(others.gain - messages.gain, leaning, 2)
    spreads = _shares(others.covariance - messages.covariance, messages.covariance, 2)
    widths = messages.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    shifts = _shares(others.offset - messages.offset, torch.maximum(messages.offset.abs(), widths), 1)
    return torch.stack([gains, spreads, shifts]).amax((0, -1)) if problem.horizon else gains.new_zeros(problem.batch)


@torch.no_grad()
def moved(problem: GaussianProblem, messages: Messages, others: Messages) -> Tensor:
    """[...], by what share of themselves the policy (see `policy_moved`) and V(start) of other messages differ.

    V(start) is held against the constants that it is a sum of; those of completed squares, which are large where linear
    costs outweigh quadratic ones, are rounded without being shaken.
    """
    steps = policy_moved(problem, messages, others)
    centred = problem.centred()
    constants = [part.abs().amax(-1) for part in (problem.constant, centred.constant)]
    constants += [problem.final.rho.abs(), messages.start.abs(), messages.temperature]
    size = torch.stack(torch.broadcast_tensors(*constants)).amax(0)
    rests = [squares_of(problem.cost, problem.linear, problem.constant)[0].rest.abs().amax(-1)]
    rests += [squares_of(*problem.final)[0].rest.abs()]
    rounding = torch.finfo(size.dtype).eps * torch.maximum(*torch.broadcast_tensors(*rests))
    return torch.maximum(steps, _shares((others.start - messages.start).abs() + rounding, size))


@torch.no_grad()
def shifted(problem: GaussianProblem, answer: Rooted, other: Rooted) -> Tensor:
    """[...], by what share of themselves believed dynamics, moments and accounts of another answer differ.

    Moments are held against the largest along q: where a state that was far away is led to 0, its mean keeps the
    digits of what it was.
    """
    one, two = answer.belief, other.belief
    along, beside = answer.moments, other.moments
    widths, acts = (
        part.diagonal(dim1=-2, dim2=-1).abs().sqrt() for part in (along.state_covariances, along.action_covariances)
    )
    found = [_shares(getattr(two, name) - getattr(one, name), getattr(one, name), 2).amax(-1) for name in STEPS]
    found.append(_shares(two.offset - one.offset, torch.maximum(one.offset.abs(), widths[..., 1:, :]), 1).amax(-1))
    means = ((along.state_means, beside.state_means, widths), (along.action_means, beside.action_means, acts))
    found += [_shares(second - first, torch.maximum(first.abs(), width), 2) for first, second, width in means]
    spreads = (along.state_covariances, beside.state_covariances), (along.action_covariances, beside.action_covariances)
    found += [_shares(second - first, first, 3) for first, second in spreads]
    alpha = problem.temperature
    paid, instead = (
        torch.stack(torch.broadcast_tensors(part.believed_return / alpha, part.policy_divergence, part.luck), -1)
        for part in (answer.account, other.account)
    )
    return torch.stack([*found, _shares(instead - paid, paid, 1)]).amax(0)


def _shares(part: Tensor, whole: Tensor, own: int = 0) -> Tensor:
    """[...], the largest entry of a part over that of the whole, over their last `own` axes; 0 where both are 0."""
    part, whole = (x.abs().flatten(-own).amax(-1) if own else x.abs() for x in (part, whole))
    return torch.where(part > 0, part / whole, 0.0)


class _Refined(torch.autograd.Function):
    """Numbers that were computed twice: the better ones where a mask says so, with the gradients of the first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, better: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, better, first)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return slope, None, None


class _Lost(torch.autograd.Function):
    """The same, of numbers whose gradients are not known; who is refused them is told of what, and what helps."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, better: Tensor, mask: Tensor, refused: tuple[str, str]) -> Tensor:
        return torch.where(mask, better, first)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.refused = inputs[3]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        kind, instead = ctx.refused
        raise NotKnown("gradients", kind, instead, "the pass that gradients are taken of has lost its digits")


def refined(first: Any, better: Any, mask: Tensor, *, lost: bool = False, refused: tuple[str, str] = REFUSED) -> Any:
    """A tensor, or a tuple of them, with the better numbers of the members that a mask [...] names.

    Gradients are those of the first ones; where these are off by more than `KEPT` of the largest, or known to have lost
    their digits on the way, asking for gradients raises `NotKnown`. Gradients may be off by more than the numbers they
    are of: 2e-6 was seen beside 1e-8. What is then said of the answer, and what helps, is `refused`.
    """
    if isinstance(first, tuple):
        pairs = zip(first, better, strict=True)
        return type(first)(*(refined(*pair, mask, lost=lost, refused=refused) for pair in pairs))
    first, mask = first.expand(better.shape), mask[(..., *[None] * (better.dim() - mask.dim()))]
    kept = not lost
    if first.requires_grad and kept:
        off = torch.where(mask, first.detach() - better, 0.0).abs().amax()
        kept = bool(off <= KEPT[better.dtype] * torch.where(mask, better, 0.0).abs().amax())
    return _Refined.apply(first, better, mask) if kept else _Lost.apply(first, better, mask, refused)


def with_digits_of(messages: Messages, better: Messages, mask: Tensor) -> Messages:
    """The messages with the better numbers of the members that a mask [...] names; see `refined`."""
    names = ("cost_to_go", "gain", "offset", "action_cost", "root", "start")
    return replace(messages, **{name: refined(getattr(messages, name), getattr(better, name), mask) for name in names})


@torch.no_grad()
def rooted_answer(problem: GaussianProblem, messages: Messages, pushes: list[Push | None]) -> Rooted:
    """What q does, by messages and tilts of `backward_in_roots`; of members that these do not hold for, anything.

    Args:
        problem: the linear-quadratic problem, of a finite horizon.
        messages: quadratic messages, all of whose policies exist.
        pushes: what tilts the start and each step.
    """
    policy = GaussianPrior(messages.gain, messages.offset, messages.covariance)
    width = messages.width.mT
    belief, moments, lucks, costs, leans, roots = _along(problem, messages, policy, width, pushes)
    weights, luck = alive(problem), lucks.sum(-1)
    paid = Account(
        believed_return=-(weights * costs).sum(-1),
        policy_divergence=(weights[:-1] * leans).sum(-1),
        policy_entropy=(weights[:-1] * entropies_of_widths(width)).sum(-1).expand_as(luck),
        luck=luck,
    )
    return Rooted(belief, moments, lucks, paid, roots)


def _along(
    problem: GaussianProblem, messages: Messages, policy: GaussianPrior, width: Tensor, pushes: list[Push | None]
) -> tuple[Belief, Moments, Tensor, Tensor, Tensor, Tensor]:
    """Along q: belief, moments, luck [..., T + 1], expected costs [..., T + 1], KLs of the policy [..., T], roots."""
    shape, n, m, horizon = problem.batch, problem.num_states, problem.num_actions, problem.horizon
    theta = messages.theta
    parts = [(problem.A, 2), (problem.B, 2), (problem.offset, 1), (factor(problem.noise), 2)]
    stage, final = squares_of(problem.cost, problem.linear, problem.constant)[0], squares_of(*problem.final)[0]
    divergence = divergence_parts(policy, problem.prior, width.mT)
    parts += [*zip(stage, (2, 1, 1, 0), strict=True), *zip(policy, (2, 1, 2), strict=True), (width, 2)]
    parts += [*zip(divergence, (2, 1, 0), strict=True)]
    steps = [[spread_over(step, shape, own) for step in at_steps(part, own, horizon)] for part, own in parts]
    own = torch.eye(n, dtype=theta.dtype, device=theta.device).expand(*shape, n, n)
    nowhere = own.new_zeros(*shape, 0, n)
    mean, G1 = spread_over(problem.mean, shape, 1), spread_over(factor(problem.covariance), shape, 2)
    S, _, luck = _blown(nowhere, mean, G1, pushes[0], theta)
    mean = _pulled(mean, pushes[0])
    start = mean, symmetric(S.mT @ S)
    means, roots, lucks = [mean], [S], [luck]
    chosen = list[Tensor]()
    joints, costs, leans, beliefs = list[Tensor](), list[Tensor](), list[Tensor](), list[tuple[Tensor, ...]]()
    for (A, B, c, G, *rest), push in zip(zip(*steps, strict=True), pushes[1:], strict=True):
        cost, K, k, Y, lean = Squares(*rest[:4]), rest[4], rest[5], rest[7], rest[8:]
        action = times(K, mean) + k
        joint = torch.cat([torch.cat([S, S @ K.mT], -1), torch.cat([Y.new_zeros(*shape, m, n), Y], -1)], -2)
        z, F = torch.cat([mean, action], -1), torch.cat([A, B], -1)
        costs.append(cost(z) + (joint @ cost.U.mT).square().sum((-2, -1)) / 2)
        leans.append(Squares(lean[0], lean[1], torch.zeros_like(mean), lean[2])(mean))
        leans[-1] = leans[-1] + (S @ lean[0].mT).square().sum((-2, -1)) / 2
        after = times(F, z) + c
        S, noise, luck = _blown(joint @ F.mT, after, G, push, theta)
        beliefs.append((_kept(A, push), _kept(B, push), _pulled(c, push), noise, _kept(own, push)))
        mean = _pulled(after, push)
        for kept, new in ((means, mean), (roots, S), (chosen, action), (joints, joint), (lucks, luck)):
            kept.append(new)
    last = Squares(*(spread_over(part, shape, own) for part, own in zip(final, (2, 1, 1, 0), strict=True)))
    costs.append(last(mean) + (S @ last.U.mT).square().sum((-2, -1)) / 2)
    together = zip(zip(*beliefs, strict=True), (2, 2, 1, 2, 2), strict=True)
    A, B, c, noise, shrunk = (torch.stack(part, -own - 1) for part, own in together)
    belief = Belief(A, B, c, noise, *start, shrunk, _kept(own, pushes[0]))
    S, J = torch.stack(roots, -3), torch.stack(joints, -3)
    spread = symmetric(J.mT @ J)
    moments = Moments(
        torch.stack(means, -2),
        symmetric(S.mT @ S),
        torch.stack(chosen, -2),
        spread[..., n:, n:].contiguous(),
        spread[..., :n, n:].contiguous(),
    )
    return belief, moments, torch.stack(lucks, -1), torch.stack(costs, -1), torch.stack(leans, -1), S


def _pulled(x: Tensor, push: Push | None) -> Tensor:
    """The mean of what follows under q, of a mean outcome x [..., n]."""
    return x if push is None else times(push.kept, x) + push.pulled


def _kept(move: Tensor, push: Push | None) -> Tensor:
    """(I + theta W P)^-1 times a matrix."""
    return move if push is None else push.kept @ move


def _blown(X: Tensor, mean: Tensor, G: Tensor, push: Push | None, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An outcome step of q, from mean outcomes with a mean [..., n] and rows X [..., k, n].

    Returns:
        Rows of what follows [..., n, n], the covariance of its noise alone, and the luck that the tilt costs, nats.
    """
    if push is None:
        return triangle(X, G.mT), G @ G.mT, torch.zeros_like(mean[..., 0])
    slopes = X @ push.slope.mT
    moved = (times(push.slope, mean) + push.shift).square().sum(-1) + slopes.square().sum((-2, -1))
    theta = theta.expand_as(push.log_det)
    excess = log_det_excess(push.curvature, theta, push.log_det, push.width.mT @ push.width)
    noise = push.spread
    return triangle(X @ push.kept.mT, noise), symmetric(noise.mT @ noise), ((excess + moved) / 2).clamp(min=0)

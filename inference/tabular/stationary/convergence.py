"""What is known beforehand of an iteration over an infinite horizon: whether it settles, how fast, and from where.

Fixed dynamics: gamma < 1 (the soft backup is then a contraction, Haarnoja 2017, appendix A.2), or strictly negative
live rewards and a terminal state within reach. Exact target: gamma rho(M) < 1 on the live states, where
M(s, s') = sum_a p(a|s) p(s'|s,a) e^{r / alpha}, because e^v solves a linear system in M: for up to 1,000 live states by
its eigenvalues, for more by a search where no reward is positive, else by whether (I - gamma M)^-1 1 is positive. Other
tilts have no condition that is easy to check: there the growth of the values is watched.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.kernels.backups import soft_policy
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.stationary.chains import always_ends, reaches_terminal
from cai.inference.tabular.stationary.desirability import PathSums
from cai.models.common.numerics import expectation, safe_log, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Conditions", "conditions_of", "first_values", "spectral_radius"]

EIGENVALUE_LIMIT = 1000  # live states up to which rho(M) is computed; beyond, only whether it is below 1
NARROW = 30.0  # nats between the entries of M, up to which its eigenvalues need no scaling
PROBE_STEPS = 100_000  # of the iteration that tells whether gamma rho(M) < 1 where nothing else can


@dataclass(frozen=True)
class Conditions:
    """What is known of an iteration beforehand.

    Attributes:
        rate: bound on its linear rate, or None.
        contracts: whether every backup contracts by it in the sup norm.
        assured: whether it is known to settle.
        why: why no stationary answer is assured; empty where nothing stands against one.
    """

    rate: float | None
    contracts: bool
    assured: bool
    why: str


def conditions_of(model: TrajectoryModel, recursion: Recursion) -> Conditions:
    """Looks at the recursion, the discount and the rewards; see the head of this module."""
    soft = recursion.choice is soft_policy
    if recursion.eta == 1 and soft and int(model.live.sum()) > EIGENVALUE_LIMIT:
        status = _dies_out(model)
        why = "discount * rho(M) is 1 or more" if status is Status.DIVERGED else ""
        return Conditions(None, False, status.ok, why)
    if recursion.eta == 1 and soft:
        rate = spectral_radius(model)
        why = f"discount * rho(M) is {rate:.6g}" if rate >= 1 - 1e-12 else ""
        return Conditions(rate, False, not why, why)
    if recursion.eta <= 0 and model.discount == 1:
        why = _reward_not_negative(model)  # cheaper to see than whether every policy ends
        why = f"{why}, and a policy may go on for ever" if why and not always_ends(model) else ""
        return Conditions(None, False, recursion.eta == 0 and not why, why)
    if recursion.eta == 0:
        return Conditions(model.discount, True, True, "")
    return Conditions(None, False, False, "")


def first_values(
    model: TrajectoryModel, recursion: Recursion, conditions: Conditions, accelerate: bool
) -> tuple[Tensor, bool]:
    """Where an iteration begins: values [S] in nats, and whether that is near enough for Newton steps at once.

    Without a discount, what reaches no terminal state begins at -inf, and the rest at 0. With more than 1,000 live
    states and an end that is assured (so that there is one fixed point, wherever one begins) the rest begins at log z
    where the soft values are a linear system in e^v, and otherwise at the log weight of the best path to an end; unless
    nothing is to be accelerated.
    """
    zeros = model.mdp.initial.detach().new_zeros(model.mdp.num_states)
    if model.discount < 1:
        return zeros, False
    reaches = reaches_terminal(model)
    values = torch.where(reaches, zeros, torch.full_like(zeros, -torch.inf))
    if not (accelerate and conditions.assured) or int(model.live.sum()) <= EIGENVALUE_LIMIT:
        return values, False
    with torch.no_grad():
        sums, _ = _path_sums(model, model.live & reaches)
        if not sums.best_paths():
            return values, False
        linear = recursion.choice is soft_policy and (recursion.eta == 1 or _is_sure(model))
        if linear and sums.pattern.method != "iterate" and not sums.leap():
            sums.climb()
        return torch.where(sums.counts, sums.height, values), True


def _is_sure(model: TrajectoryModel) -> bool:
    """Whether each action that may be taken has one outcome."""
    several = (model.mdp.probabilities.detach() > 0).sum(-1) > 1
    return not bool((several & (model.action_prior.detach() > 0) & model.live[:, None]).any())


def _path_sums(model: TrajectoryModel, inside: Tensor) -> tuple[PathSums, Tensor]:
    """(sums over paths of gamma M among the states `inside`, each outcome as an action; rho [S, A, K] in nats)."""
    mdp, size = model.mdp, model.mdp.num_states
    rewards = model.log_potential(0).detach().expand(mdp.probabilities.shape)
    chances = safe_log(model.action_prior.detach()[..., None] * mdp.probabilities.detach() * model.discount)
    log_weights = (chances + rewards).reshape(size, -1)
    following = mdp.successors().expand(mdp.probabilities.shape).reshape(size, -1)
    possible = torch.isfinite(log_weights) & inside[:, None]
    ends = torch.where(possible & ~model.live[following], log_weights, torch.full_like(log_weights, -torch.inf))
    return PathSums(log_weights, following, possible & inside[following], safe_logsumexp(ends), inside), rewards


def _dies_out(model: TrajectoryModel) -> Status:
    """Whether gamma rho(M) < 1 on the live states, without eigenvalues; DIVERGED if not."""
    live = model.live
    sums, rewards = _path_sums(model, live)
    possible = ((model.action_prior[..., None] * model.mdp.probabilities).detach() > 0) & live[:, None, None]
    costs = possible & ((rewards < 0) | ~live[model.mdp.successors()])
    leaks = costs.any(-1).any(-1) if model.discount == 1 else live
    # Ends of weight 1 everywhere: their sums over paths are finite iff gamma rho(M) < 1.
    sums = dataclasses.replace(sums, ends=torch.zeros_like(sums.ends))
    return sums.dies_out(bool((rewards[possible] > 0).any()), leaks, PROBE_STEPS)


def spectral_radius(model: TrajectoryModel) -> float:
    """Gamma rho(M) on the live states, the rate at which exact messages settle over an infinite horizon.

    M's entries may lie further apart than floats do, so M is scaled to a similar matrix e^{h(s') - h(s) - c} M(s, s')
    of entries up to 1 that are 1 along a cycle: what vanishes in it does not count.
    """
    with torch.no_grad():
        log_matrix = _log_matrix(model)
        finite = log_matrix[torch.isfinite(log_matrix)]
        if not finite.numel():
            return 0.0
        shift, height = float(finite.max()), log_matrix.new_zeros(len(log_matrix))
        if float(finite.max() - finite.min()) > NARROW:
            shift = _largest_cycle_mean(log_matrix)
            if shift == -math.inf:
                return 0.0
            height = _longest_paths(log_matrix - shift)
        matrix = (log_matrix + height - height[:, None] - shift).exp()
        radius = float(torch.linalg.eigvals(matrix).abs().max())
        return model.discount * radius * math.exp(min(shift, 700.0))


def _largest_cycle_mean(log_matrix: Tensor) -> float:
    """The largest mean log weight of a cycle (Karp 1978), -inf where there is no cycle."""
    number = len(log_matrix)
    walks = [log_matrix.new_zeros(number)]
    for _ in range(number):
        walks.append((log_matrix + walks[-1]).amax(-1))
    table = torch.stack(walks[:-1])
    means = (walks[-1] - table) / torch.arange(number, 0, -1, device=log_matrix.device)[:, None]
    means = torch.where(torch.isfinite(table), means, torch.full_like(means, math.inf))
    return float(torch.where(torch.isfinite(walks[-1]), means.amin(0), torch.full_like(walks[-1], -math.inf)).max())


def _longest_paths(log_matrix: Tensor) -> Tensor:
    """[S], the largest log weight of a path from each state, where no cycle has more than 0 up to rounding."""
    height = log_matrix.new_zeros(len(log_matrix))
    for _ in range(len(log_matrix)):
        longer = torch.maximum((log_matrix + height).amax(-1), torch.zeros_like(height))
        if bool((longer <= height + 1e-9 * height.clamp(min=1.0)).all()):
            break
        height = longer
    return height


def _log_matrix(model: TrajectoryModel) -> Tensor:
    """[L, L], log M(s, s') on the L live states."""
    mdp, live, size = model.mdp, model.live, model.mdp.num_states
    weights = model.action_prior[..., None] * mdp.probabilities
    scores = safe_log(weights) + model.log_potential(0)
    if mdp.next_states is None:
        return safe_logsumexp(scores, 1)[live][:, live]
    cells = (torch.arange(size, device=scores.device)[:, None, None] * size + mdp.next_states).reshape(-1)
    flat = scores.reshape(-1)
    largest = scores.new_full((size * size,), -torch.inf).scatter_reduce(0, cells, flat, "amax")
    largest = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    sums = torch.zeros_like(largest).scatter_add(0, cells, (flat - largest[cells]).exp())
    return (safe_log(sums) + largest).reshape(size, size)[live][:, live]


def _reward_not_negative(model: TrajectoryModel) -> str:
    """Names the first action whose expected reward is not below 0 in a live state; empty where there is none."""
    rewards = expectation(model.mdp.probabilities, model.reward_table(0)).detach()
    taken = (model.action_prior > 0) & model.live[:, None]
    wrong = taken & (rewards >= 0)
    if not bool(wrong.any()):
        return ""
    state, action = torch.nonzero(wrong)[0].tolist()
    mdp, reward = model.mdp, float(rewards[state, action])
    return f"the expected reward of action {mdp.action_name(action)} in state {mdp.state_name(state)} is {reward:g}"

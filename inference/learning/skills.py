"""Skills: several policies of which one is drawn for an episode and held, as one policy with a latent variable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.backend import require_model
from cai.inference.core.policy import TablePolicy
from cai.inference.learning.options import check_table_model
from cai.models.common.checks import as_count
from cai.models.common.numerics import plain_number
from cai.models.common.random_draws import seeded
from cai.models.common.storage import Saved, storable
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Skills", "skills"]

NAME = "skills"
ALIKE = 1e-4  # relative, by which equal skills must be better to be preferred to those that differ
MOST_PATHS = 200_000  # trajectories that are written out


@storable("skills")
@dataclass(frozen=True, eq=False)
class Skills(Saved):
    """K policies pi(a | s, z), of which z ~ p(z) is drawn once an episode and held.

    Attributes:
        action_probs: [K, S, A], pi(a | s, z).
        weights: [K], p(z).
        elbo: E[sum_t r - alpha log pi(a|s, z) / p(a|s) + alpha (log q(z | trajectory) - log p(z))] / alpha, nats, with
            q by Bayes: the bound of the mixture as a law of trajectories.
        information: I(z; trajectory), nats: how well a trajectory tells its skill, at most log K.
        skill_elbos: [K], the bound of each policy on its own, nats.
        history: the bound each time it was looked at, from the best start.
        state_names: S names, or None.
        action_names: A names, or None.
    """

    action_probs: Tensor
    weights: Tensor
    elbo: float
    information: float
    skill_elbos: Tensor
    history: Tensor = field(repr=False)
    state_names: tuple[str, ...] | None = field(default=None, repr=False)
    action_names: tuple[str, ...] | None = field(default=None, repr=False)

    def policy(self, z: int) -> TablePolicy:
        """The policy of one skill.

        Args:
            z: its number.

        Raises:
            ValueError: if there is none.
        """
        number = len(self.weights)
        if isinstance(z, bool) or not isinstance(z, int) or not 0 <= z < number:
            raise ValueError(f"there is no skill {z!r}; there are skills 0 to {number - 1}")
        return TablePolicy(
            self.action_probs[z],
            stationary=True,
            state_names=self.state_names,
            action_names=self.action_names,
            source=f"skill {z}",
        )

    def posterior(self, states: Any, actions: Any) -> Tensor:
        """[N, K], q(z | trajectory) by Bayes: p(z) prod_t pi(a_t | s_t, z), normalised.

        Args:
            states: int [N, T], in which the actions were taken, before any end.
            actions: int [N, T].

        Raises:
            TypeError, ValueError: if shapes or numbers do not fit, or no skill takes the actions of a trajectory.
        """
        where, taken = torch.as_tensor(states), torch.as_tensor(actions)
        if where.dim() != 2 or where.shape != taken.shape:
            raise ValueError(
                f"states have shape {list(where.shape)} and actions {list(taken.shape)}; expected [N, T] for both"
            )
        if where.is_floating_point() or taken.is_floating_point():
            raise TypeError(f"states are {where.dtype} and actions {taken.dtype}; give the whole numbers of both")
        where, taken = where.long(), taken.long()
        _, num_states, num_actions = self.action_probs.shape
        for what, numbers, limit in (("state", where, num_states), ("action", taken, num_actions)):
            if bool(((numbers < 0) | (numbers >= limit)).any()):
                raise ValueError(f"there are {what}s 0 to {limit - 1}, and the trajectories hold others")
        logs = self.action_probs.log()[:, where, taken].sum(-1) + self.weights.log()[:, None]
        never = torch.isinf(logs).all(0)
        if bool(never.any()):
            row = int(torch.nonzero(never)[0])
            raise ValueError(f"no skill takes the actions of trajectory {row}, so it was made by none of them")
        return torch.softmax(logs, 0).T


class _Paths(NamedTuple):
    """All trajectories: levels of steps, and what each whole one is worth.

    Attributes:
        levels: of each step (parent [n], place [n]): whose continuation it is, and s A + a.
        ended: for each level the rows at which a trajectory ends.
        constant: [P], log of chance of start and dynamics, for the whole ones in the order of `ended`.
        worth: [P], sum of rewards over alpha and of log p(a | s), nats.
    """

    levels: list[tuple[Tensor, Tensor]]
    ended: list[Tensor]
    constant: Tensor
    worth: Tensor


def skills(
    model: TrajectoryModel,
    num_skills: int,
    *,
    steps: int = 100,
    restarts: int = 4,
    separation: float = 0.1,
    seed: int = 0,
) -> Skills:
    """Maximises the bound of K stationary policies of which one is drawn for an episode and held, on tables.

    Levine 2018, section 5.3; Hausman 2018, "Learning an embedding space for transferable robot skills". The model is
    augmented by z, which no action changes: each pi(a | s, z) pays its KL from the prior, and is paid alpha log q(z |
    trajectory) / p(z). Here all trajectories are written out; q is exact, and so is the gradient (L-BFGS, in float64).
    The bound is then that of the mixture of trajectories, so at most that of "variational". K equal skills are one
    stationary policy with the bound of that, and are one of the starts; they are the answer where all others are worse
    by more than 1e-4 of the bound.

    Args:
        model: over a finite horizon with discount 1, of at most 200,000 trajectories.
        num_skills: K; p(z) is uniform.
        steps: of L-BFGS, at most, with the weight `separation` and again without it.
        restarts: starts with random logits, beside the one with equal skills; the best bound counts. There are maxima
            in which two skills do the same.
        separation: a weight of I(z; trajectory) beside the bound at first. Many sets of skills make the same mixture,
            which the bound does not tell apart; with this weight each gets a way of its own, which it keeps.
        seed: of the starts; the global random state is left alone.

    Raises:
        TypeError, ValueError: if the model is none of these, or a number is out of range.
    """
    require_model(model, NAME, "'restricted'")
    number, count = as_count(num_skills, "num_skills"), as_count(steps, "steps")
    starts = as_count(restarts, "restarts")
    if isinstance(separation, bool) or not isinstance(separation, (int, float)) or not 0 <= separation < math.inf:
        raise ValueError(f"separation is {separation!r}; give a finite number >= 0")
    if not model.is_finite or model.discount != 1:
        raise ValueError(
            f"skills write out whole trajectories, over a finite horizon with discount 1; this model has horizon "
            f"{model.horizon} and discount {model.discount:g}"
        )
    check_table_model(model, NAME)
    paths, prior = _written_out(model), model.action_prior.detach().double().cpu()
    generator = seeded(seed)
    best: tuple[float, Tensor, list[float]] | None = None
    alike = torch.zeros(number, *prior.shape, dtype=torch.float64)  # stay so: the best stationary policy
    for start in range(starts + 1):
        logits = torch.randn(alike.shape, generator=generator, dtype=torch.float64) if start < starts else alike
        history: list[float] = []
        for weight in (separation, 0.0):
            _ascend(paths, prior, logits, weight, count, history)
        reached = float(_bound(paths, _log_policies(logits, prior))[0])
        needed = 0.0 if start < starts else ALIKE * (1 + abs(reached))
        if best is None or reached > best[0] + needed:
            best = (reached, logits, history)
    assert best is not None  # there is at least one start
    log_policies = _log_policies(best[1], prior)
    bound, information, each = _bound(paths, log_policies)
    return Skills(
        log_policies.exp(),
        torch.full((number,), 1 / number, dtype=torch.float64),
        float(bound),
        float(information),
        each,
        torch.tensor(best[2], dtype=torch.float64),
        None if model.mdp.state_names is None else tuple(model.mdp.state_names),
        None if model.mdp.action_names is None else tuple(model.mdp.action_names),
    )


def _ascend(paths: _Paths, prior: Tensor, logits: Tensor, weight: float, steps: int, history: list[float]) -> None:
    """Raises the bound, and so many times I(z; trajectory), by changing the logits in place; adds to the history."""
    optimizer = torch.optim.LBFGS([logits], max_iter=steps, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def loss() -> float:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            bound, information, _ = _bound(paths, _log_policies(leaf, prior))
            wanted = -bound - weight * information + 0.0 * leaf.sum()  # where nothing is decided, neither depends on it
            (logits.grad,) = torch.autograd.grad(wanted, [leaf])
        history.append(float(bound.detach()))
        return float(wanted.detach())

    optimizer.step(loss)
    logits.grad = None


def _log_policies(logits: Tensor, prior: Tensor) -> Tensor:
    """[K, S, A], log pi(a | s, z) = log softmax(logits + log p)."""
    return torch.log_softmax(logits + prior.log(), -1)


def _bound(paths: _Paths, log_policies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The augmented bound, I(z; trajectory), both 0-dim, and the bound of each skill [K]; nats."""
    number = len(log_policies)
    table = log_policies.flatten(1)
    logs, whole = table.new_zeros(number, 1), []
    for (parent, place), ended in zip(paths.levels, paths.ended, strict=True):
        logs = logs[:, parent] + (table[:, place] if len(place) else 0.0)
        whole.append(logs[:, ended])
    chosen = torch.cat(whole, 1)  # [K, P], sum of log pi(a | s, z)
    chances = (chosen + paths.constant).exp()
    likely = chosen.masked_fill(chances == 0, 0.0)  # 0 log 0
    told = torch.log_softmax(likely, 0) + math.log(number)  # log q(z | trajectory) / p(z)
    each = (chances * (paths.worth - likely)).sum(1)
    information = (chances * told).sum(1).mean()
    return each.mean() + information, information, each


def _written_out(model: TrajectoryModel) -> _Paths:
    """All trajectories that the prior can take.

    Raises:
        ValueError: if there are too many.
    """
    mdp = model.mdp.host
    chances = mdp.probabilities.detach().double()
    successors = mdp.successors().expand_as(chances)
    prior, nonterminal = model.host.action_prior.detach().double(), model.host.nonterminal
    number, alpha = prior.shape[1], plain_number(model.host.temperature)
    state = torch.nonzero(mdp.initial.detach() > 0)[:, 0]
    constant, worth = mdp.initial.detach().double()[state].log(), torch.zeros(len(state), dtype=torch.float64)
    levels, ended, ends = [(torch.zeros_like(state), state[:0])], [], []
    for t in range(model.steps):
        goes_on = nonterminal[state]
        ended.append(torch.nonzero(~goes_on)[:, 0])
        ends.append((constant[~goes_on], worth[~goes_on]))
        open_paths = torch.nonzero(goes_on)[:, 0]
        taken = (prior[state[open_paths]][:, :, None] > 0) & (chances[state[open_paths]] > 0)
        row, action, outcome = torch.nonzero(taken).unbind(1)
        if len(row) > MOST_PATHS:
            raise ValueError(
                f"there are more than {MOST_PATHS:,} trajectories after {t + 1} of {model.steps} steps, and skills "
                "write all of them out; shorten the horizon, or take a smaller model"
            )
        parent, before = open_paths[row], state[open_paths[row]]
        paid = model.host.reward_table(t).detach().double().expand(chances.shape)[before, action, outcome]
        constant = constant[parent] + chances[before, action, outcome].log()
        worth = worth[parent] + paid / alpha + prior[before, action].log()
        state = successors[before, action, outcome]
        levels.append((parent, before * number + action))
    ended.append(torch.arange(len(state)))
    ends.append((constant, worth))
    return _Paths(levels, ended, torch.cat([end[0] for end in ends]), torch.cat([end[1] for end in ends]))

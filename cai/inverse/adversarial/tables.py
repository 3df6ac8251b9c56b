"""The adversarial methods on tables, where every expectation is exact: the fixed point of policy and discriminator.

With rho_E the discounted visits [T, S, A] of the demonstrations, rho those of the policy, pi the policy that is best
for f at temperature 1 in the entropy form, and sigma the logistic function, two conditions hold at once:

    AIRL   theta maximises sum rho_E log sigma(f - log pi) + sum rho log sigma(log pi - f),  f = g + gamma h' - h
    GAIL   f = log pi + log rho_E / rho, the D of every table in closed form

A round answers f, finds the discriminator that is best against the answer, and moves f by a share of the way. Where
dynamics are certain and g is free in every action, the fixed point of AIRL is the maximum-entropy estimate: pi matches
what the demonstrations did on average, h takes the values up, f = log pi, and D = 1/2 everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.inference.tabular.sensitivity import SoftSensitivity
from cai.inverse.tabular.data import ModelSteps
from cai.models.common.memory import require_memory
from cai.models.rewards.tables import TableReward, TimeTableReward
from cai.models.trajectory.batch import with_initial
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Round", "TableGame", "js_divergence", "settle"]

SHARE, FARTHEST, MEMORY = 0.5, 1.0, 8  # of the way to the best discriminator; nats in a round; rounds that are mixed
SETTLED = 1e-13  # nats, of the change of f where anybody is
ENOUGH, PATIENCE = 1e-10, 10  # the same, where rounding has let it come no nearer for so many rounds
NEWTON = 50  # steps of a discriminator
FLAT = 1e-13  # of the largest curvature, below which a direction is left alone


@dataclass(frozen=True, eq=False)
class Round:
    """An answer to f.

    Attributes:
        f: [T, S, A], nats; 0 where nothing can be done.
        log_policy: [T, S, A], -inf where an action is not available.
        visits: [T, S, A], discounted, for one start.
    """

    f: Tensor
    log_policy: Tensor
    visits: Tensor


class TableGame:
    """What both players see of a tabular world.

    Args:
        model: the world; its reward, temperature and action prior are not looked at.
        steps: the demonstrations, which were not cut.
        state_only: whether g is of states alone.

    Attributes:
        shown: [T, S, A], rho_E.
        possible: bool [T, S, A], steps that are choices.
    """

    def __init__(self, model: TrajectoryModel, steps: ModelSteps, state_only: bool) -> None:
        mdp, self.gamma = model.mdp, model.discount
        weights = steps.weights / steps.weights.sum()
        start = torch.zeros(mdp.num_states, dtype=torch.float64).index_add(0, steps.starts, weights)
        self.world = TrajectoryModel(
            with_initial(mdp, start), TableReward(torch.zeros(mdp.num_states)), model.horizon, discount=model.discount
        ).entropy_form()
        self.entropy, self.start = self.world.reward, torch.where(model.nonterminal, start, 0.0)
        shape = (model.steps, mdp.num_states, mdp.num_actions)
        t = steps.times if model.is_finite else torch.zeros_like(steps.times)
        flat = (t * shape[1] + steps.states) * shape[2] + steps.actions
        masses = weights[steps.rows] * self.gamma ** steps.times.double()
        self.shown = torch.zeros(shape, dtype=torch.float64).flatten().index_add(0, flat, masses).view(shape)
        self.possible = (mdp.available & model.nonterminal[:, None]).expand(shape)
        self.state_only, self.finite = state_only, model.is_finite

    def answer(self, f: Tensor) -> Round:
        """The best policy for f [T, S, A], and where it goes.

        Raises:
            ValueError: if an infinite horizon has no answer to it.
        """
        paid = TimeTableReward(f) if self.finite else TableReward(f[0])
        found = SoftSensitivity(self.world.replace(reward=paid + self.entropy), "fixed")
        if not found.found:
            raise ValueError("over an infinite horizon there is no answer to a reward; give a discount below 1")
        visits = found.adjoint(torch.zeros_like(f), self.start)[1]
        logs = torch.where(self.possible, found.log_policy, torch.full_like(f, -torch.inf))
        return Round(f, logs, torch.where(self.possible, visits, 0.0))

    def design(self) -> Tensor:
        """[R, P], f of the R possible steps as a linear function of g, then h: one column an entry.

        h is 0 where an episode has ended and where the horizon is over, so it has entries [T, S] of nonterminal ones.
        """
        mdp = self.world.mdp
        t, s, a = self.possible.nonzero(as_tuple=True)
        following = successors(self.world)[s, a]
        of_g = s if self.state_only else s * mdp.num_actions + a
        own = t * mdp.num_states + s
        later = (t + 1 if self.finite else t) * mdp.num_states + following
        lasts = self.world.nonterminal[following] & ((t + 1 < self.possible.shape[0]) | torch.tensor(not self.finite))
        size = int(of_g.max()) + 1
        columns = size + self.possible.shape[0] * mdp.num_states
        require_memory(40 * len(t) * columns, "the discriminator of every table", "shorten the horizon, or use fit")
        matrix = torch.zeros(len(t), columns, dtype=torch.float64)
        rows = torch.arange(len(t))
        matrix[rows, of_g] = 1.0
        matrix[rows, size + own] -= 1.0
        matrix[rows[lasts], size + later[lasts]] += self.gamma
        return matrix

    def tables(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """(g [S, A] or [S], h [T + 1, S]; over an infinite horizon [1, S]) of the columns of `design`."""
        steps, states, actions = self.possible.shape
        h = parameters[len(parameters) - steps * states :].view(steps, states)
        g = torch.zeros(states if self.state_only else states * actions, dtype=torch.float64)
        g[: len(parameters) - h.numel()] = parameters[: len(parameters) - h.numel()]
        if self.finite:
            h = torch.cat([h, h.new_zeros(1, states)])
        return g if self.state_only else g.view(states, actions), h


def successors(model: TrajectoryModel) -> Tensor:
    """int64 [S, A], where each action leads with certainty."""
    mdp = model.mdp
    likely = mdp.probabilities.argmax(-1)
    return likely if mdp.next_states is None else mdp.next_states.gather(-1, likely[..., None])[..., 0]


def discriminator(design: Tensor, parameters: Tensor, log_policy: Tensor, shown: Tensor, visits: Tensor) -> Tensor:
    """The parameters [P] whose D is best, by Newton's method; of equally good ones those nearest to the given ones.

    Args:
        design: [R, P].
        parameters: [P], where it begins.
        log_policy: [R], nats.
        shown: [R], rho_E.
        visits: [R], rho.
    """

    def objective(at: Tensor) -> Tensor:
        logits = design @ at - log_policy
        return shown @ torch.nn.functional.logsigmoid(logits) + visits @ torch.nn.functional.logsigmoid(-logits)

    best, place, before = objective(parameters), parameters, torch.inf
    for _ in range(NEWTON):
        share = torch.sigmoid(design @ place - log_policy)
        slope = design.T @ (shown * (1 - share) - visits * share)
        bend = design.T @ (((shown + visits) * share * (1 - share))[:, None] * design)
        sizes, vectors = torch.linalg.eigh(bend)
        kept = sizes > FLAT * sizes[-1]
        move = vectors[:, kept] @ ((vectors[:, kept].T @ slope) / sizes[kept])
        gain = float(slope @ move)
        while gain > 1e-12 and not bool(objective(place + move) > best):
            move, gain = move / 2, gain / 2
        place = place + move
        best = objective(place)
        if gain < 1e-12 and gain > 1e-3 * before:  # no more than rounding is left
            break
        before = gain
    return place


def settle(game: TableGame, method: str, rounds: int) -> tuple[Round, Tensor | None, int, bool]:
    """Rounds of policy and discriminator until neither moves.

    Args:
        game: the world and the demonstrations.
        method: "airl" or "gail".
        rounds: at most.

    Returns:
        The last answer, the parameters of g and h (None for GAIL), the number of rounds, and whether they settled.
    """
    mask = game.possible
    design = game.design() if method == "airl" else None
    size = int(mask.sum()) if design is None else design.shape[1]
    place, at = game.answer(torch.zeros_like(game.shown)), torch.zeros(size, dtype=torch.float64)
    mixing, least, waited = Mixing(), torch.inf, 0
    for number in range(1, rounds + 1):
        logs, shown, visits = (part[mask] for part in (place.log_policy, game.shown, place.visits))
        if design is None:
            ahead = (game.shown / place.visits.sum(-1, keepdim=True)).log()[mask]
            away = torch.where((visits > 0) & (shown > 0), ahead - at, torch.zeros_like(at))
            seen = away
        else:
            away = discriminator(design, at, logs, shown, visits) - at
            seen = design @ away
        seen = torch.where(shown + visits > 0, seen, torch.zeros_like(seen))
        farthest = float(seen.abs().max())
        waited = waited + 1 if farthest >= least else 0
        least = min(least, farthest)
        if farthest < SETTLED or (least < ENOUGH and waited > PATIENCE):
            return place, None if design is None else at, number, True
        at = at + mixing.move(away, seen)
        place = game.answer(torch.zeros_like(place.f).masked_scatter(mask, at if design is None else design @ at))
    return place, None if design is None else at, rounds, False


class Mixing:
    """Steps towards a fixed point x = x + r(x), by Anderson's mixing of the last ones (Walker and Ni 2011).

    A step is at most 1 nat of f, and half of r where nothing is known yet.
    """

    def __init__(self) -> None:
        self._moves: list[Tensor] = []
        self._ways: list[Tensor] = []
        self._sights: list[Tensor] = []

    def move(self, way: Tensor, sight: Tensor) -> Tensor:
        """The step [P] to take.

        Args:
            way: [P], r here.
            sight: [R], what r does to f, by which it is measured.
        """
        self._ways, self._sights = [*self._ways, way][-MEMORY:], [*self._sights, sight][-MEMORY:]
        if len(self._sights) > 1 and float(sight.norm()) > 2 * float(self._sights[-2].norm()):
            self._moves, self._ways, self._sights = [], [way], [sight]  # it went astray
        step = SHARE * way
        if self._moves:
            bends = torch.stack([b - a for a, b in zip(self._sights, self._sights[1:], strict=False)], -1)
            turns = torch.stack([b - a for a, b in zip(self._ways, self._ways[1:], strict=False)], -1)
            weights = torch.linalg.lstsq(bends, sight[:, None], driver="gelsd", rcond=1e-10).solution[:, 0]
            step = step - (torch.stack(self._moves, -1) + SHARE * turns) @ weights
        length = float(step.norm()) / max(float(way.norm()), 1e-300) * float(sight.abs().max())
        step = step * min(1.0, FARTHEST / length) if length > 0 else step
        self._moves = [*self._moves, step][1 - MEMORY :]
        return step


def js_divergence(first: Tensor, second: Tensor) -> float:
    """The Jensen-Shannon divergence of two tables of masses, each scaled to 1, in nats: from 0 to log 2."""
    first, second = first / first.sum(), second / second.sum()
    middle = (first + second) / 2
    parts = [float((torch.special.xlogy(p, p) - torch.special.xlogy(p, middle)).sum()) / 2 for p in (first, second)]
    return max(0.0, sum(parts))  # rounding may leave less than nothing

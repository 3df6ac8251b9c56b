"""The bound of one policy, measured exactly: on a model's tables, or on a Pyro program whose latents are enumerated.

    bound = E_q[sum_t r_t] / alpha - KL(policy || prior)                               Levine 2018, equations (19), (22)

with start and dynamics those of the world. Its derivative in any parameter of the policy is, by the policy gradient,
sum_{t,s} d_t(s) sum_a dq_t(a|s) f_t(s, a), where d_t is q's own marginal and f = Q - log(q / p) with q's own tail worth
Q. So visits d and scores f are all that an optimiser needs, whatever the policy is made of.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.inference.programs.enumerated import EnumeratedProgram, Term, can_succeed, enumerate_program, find_supports
from cai.inference.programs.exact_sites import ExactSites
from cai.inference.programs.guide import Redistribute
from cai.inference.programs.posterior import conditional, prior_joints
from cai.inference.restricted.parameters import Shape, TiedParameters
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.dynamic_programming import optimality_possible
from cai.inference.tabular.policy_evaluation import forward, policy_backward
from cai.inference.tabular.stationary.chains import expected_visits, transition_matrix
from cai.models.common.numerics import categorical_divergence, expectation, safe_log
from cai.models.programs.inspect import Program, ProgramInfo, private_store
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Measured", "PolicyBound", "ProgramBound", "TableBound", "find_tied_supports", "policy_values"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What one evaluation of a policy says.

    Attributes:
        bound: nats, 0-dim, the offset of optimality='bernoulli' included.
        visits: [T, S], q(s_t) (expected visits over an infinite horizon).
        scores: [T, S, A], Q - log(q / p) up to a number for each (t, s); finite.
        usable: bool [T, S], live cells from which q keeps clear of -inf.
    """

    bound: Tensor
    visits: Tensor
    scores: Tensor
    usable: Tensor


class PolicyBound:
    """The bound as a function of a policy.

    Attributes:
        shape: of a policy.
        log_prior: [T, S, A] or [1, S, A], log p(a | s).
    """

    shape: Shape
    log_prior: Tensor

    def measure(self, log_policy: Tensor) -> Measured:
        """Evaluates log q, [T, S, A] or [1, S, A]."""
        raise NotImplementedError

    def clear(self, cells: Tensor) -> tuple[Tensor, bool]:
        """Which actions are sure to avoid -inf if later choices are made well.

        Args:
            cells: bool [T, S, A], the actions that may be chosen from.

        Returns:
            Bool [T, S, A], part of `cells` (all of them where none is clear), and whether the start is clear.
        """
        raise NotImplementedError

    def met(self, cells: Tensor) -> Tensor:
        """Bool [T, S], where a policy that does all of `cells` can come."""
        raise NotImplementedError

    def possible(self) -> bool:
        """Whether p(O) > 0."""
        raise NotImplementedError


def policy_values(model: TrajectoryModel, policy: Tensor) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats under the true dynamics, values [T, S] and q_values [T, S, A].

    Over an infinite horizon the values solve v = c + P v on the live states, c being what a step earns and pays, P
    where the chain goes on to; -inf where q can run into it.

    Args:
        model: the trajectory model.
        policy: [T, S, A].
    """
    fixed = FixedDynamics(model)
    if model.is_finite:
        return policy_backward(model, policy, fixed)
    alive, fallen = fixed.outcomes(0)
    rewards = expectation(alive + fallen, model.log_potential(0))
    earned = expectation(policy[0], rewards) - categorical_divergence(policy[0], model.action_prior)
    moves = transition_matrix(model, policy[0], fixed)
    lost = model.live & torch.isinf(earned)
    for _ in range(model.mdp.num_states):
        more = lost | (model.live & (moves[:, lost] > 0).any(-1))
        if bool((more == lost).all()):
            break
        lost = more
    counts = model.live & ~lost
    system = torch.eye(int(counts.sum()), dtype=torch.float64) - moves[counts][:, counts]
    solved = torch.linalg.solve(system, earned[counts][:, None])[:, 0]
    values = torch.where(lost, torch.full_like(earned, -torch.inf), torch.zeros_like(earned))
    values = values.index_add(0, torch.nonzero(counts).flatten(), solved)
    q_values = rewards + expectation(alive, model.mdp.gather(values))
    return values[None], torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))[None]


class TableBound(PolicyBound):
    """On the tables of a `TrajectoryModel`: O(T S A K) time a policy (a linear system of size S if T is infinite)."""

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model
        self.shape = Shape(model.steps, model.mdp.num_states, model.mdp.num_actions)
        self.log_prior = model.log_action_prior.detach()[None]

    @torch.no_grad()
    def measure(self, log_policy: Tensor) -> Measured:
        model, log_policy = self.model, log_policy.expand(self.shape)
        policy = log_policy.exp()
        values, q_values = policy_values(model, policy)
        bound = expectation(model.mdp.initial, values[0]) + model.evidence_offset
        fixed = FixedDynamics(model)
        if model.is_finite:
            visits = forward(model, model.mdp.initial, policy, fixed)[0][:-1]
        else:
            visits = expected_visits(model, model.mdp.initial, policy, fixed)[0]
        counts = torch.isfinite(log_policy) & torch.isfinite(q_values)
        paid = torch.where(counts, log_policy - self.log_prior, torch.zeros_like(log_policy))
        scores = torch.where(counts, q_values, torch.zeros_like(q_values)) - paid
        return Measured(bound, visits, scores, model.live & torch.isfinite(values))

    def clear(self, cells: Tensor) -> tuple[Tensor, bool]:
        model = self.model
        safe = torch.ones(self.shape.num_states, dtype=torch.bool)
        if model.is_finite:
            rows = []
            for t in reversed(range(model.steps)):
                rows.append(self._clear_actions(t, safe) & cells[t])
                safe = rows[-1].any(-1) | ~model.live
            allowed = torch.stack(rows[::-1])
        else:
            while True:
                allowed = (self._clear_actions(0, safe) & cells[0])[None]
                kept = allowed[0].any(-1) | ~model.live
                if bool((kept == safe).all()):
                    break
                safe = kept
        lost = ~allowed.any(-1, keepdim=True) | ~model.live[:, None]
        return torch.where(lost, cells, allowed), bool(safe[model.mdp.initial > 0].all())

    def _clear_actions(self, t: int, safe: Tensor) -> Tensor:
        """Bool [S, A], actions whose every outcome pays more than -inf and ends in a state that is safe, bool [S]."""
        mdp = self.model.mdp
        bad = (mdp.probabilities > 0) & (torch.isinf(self.model.reward_table(t)) | ~mdp.gather(safe))
        return ~bad.any(-1)

    def met(self, cells: Tensor) -> Tensor:
        model, here, rows = self.model, self.model.mdp.initial > 0, []
        possible = model.mdp.probabilities > 0
        for t in range(model.steps):
            while True:
                moves = possible & (here & model.live)[:, None, None] & cells[t][..., None]
                following = model.mdp.scatter(moves.double()) > 0
                if model.is_finite or bool((following <= here).all()):
                    break
                here = here | following
            rows.append(here & model.live)
            here = following
        return torch.stack(rows)

    def possible(self) -> bool:
        return optimality_possible(self.model)


class ProgramBound(PolicyBound):
    """On a program: it is enumerated once, and every policy then takes the place of its action sites' tables."""

    def __init__(self, program: Program, info: ProgramInfo, *, seed: int) -> None:
        self.shape = Shape(info.horizon, info.num_states, info.num_actions)
        self.sizes = info.sizes
        handler = Redistribute(torch.zeros(self.shape, dtype=torch.float64), {})

        def guide() -> None:
            with handler, ExactSites():
                program()

        with private_store(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            self.run = enumerate_program(guide, lambda: handler).detach()
            self._possible = can_succeed(enumerate_program(program))
        self.contexts = dict(handler.contexts)
        uniform = torch.full(self.shape, 1.0 / info.num_actions, dtype=torch.float64)
        joints = [joint.sum(-1) for joint in prior_joints(program, info)]
        self.log_prior = safe_log(conditional(torch.stack(joints), uniform))

    def at(self, log_policy: Tensor) -> EnumeratedProgram:
        """The enumerated run under log q, [T, S, A] or [1, S, A]."""
        log_policy, terms = log_policy.expand(self.shape), dict(self.run.log_q)
        for t in range(self.shape.steps):
            names = f"s_{t + 1}", f"a_{t + 1}"
            terms[names[1]] = Term(log_policy[t], "".join(self.run.symbols[name] for name in names))
        return dataclasses.replace(self.run, log_q=terms)

    @torch.no_grad()
    def measure(self, log_policy: Tensor) -> Measured:
        run = self.at(log_policy)
        bound, advantages = run.advantages(self.contexts, self.sizes)
        scores = torch.stack([advantages[f"a_{t + 1}"] for t in range(self.shape.steps)])
        return Measured(bound, self._visits(run), scores, torch.ones(self.shape[:2], dtype=torch.bool))

    def _visits(self, run: EnumeratedProgram) -> Tensor:
        steps, num_states, _ = self.shape
        leaves = [torch.zeros(num_states, dtype=torch.float64, requires_grad=True) for _ in range(steps)]
        with torch.enable_grad():
            total = run.expect(Term(leaf, run.symbols[f"s_{t + 1}"]) for t, leaf in enumerate(leaves))
            return torch.stack(torch.autograd.grad(total, leaves))

    def clear(self, cells: Tensor) -> tuple[Tensor, bool]:
        with torch.no_grad():
            found, clear = find_supports(self.at(_uniform(cells)), self.contexts)
        rows = [found.get(f"a_{t + 1}", cells[t]) for t in range(self.shape.steps)]
        return torch.stack(rows) & cells, clear

    def met(self, cells: Tensor) -> Tensor:
        return self._visits(self.at(_uniform(cells))) > 0

    def possible(self) -> bool:
        return self._possible


def _uniform(cells: Tensor) -> Tensor:
    """Log probabilities of the uniform policy over `cells`; over everything where nothing is left."""
    cells = cells | ~cells.any(-1, keepdim=True)
    return torch.where(cells, 0.0, -torch.inf).double() - cells.sum(-1, keepdim=True).double().log()


def find_tied_supports(bound: PolicyBound, policy: TiedParameters, limit: int) -> tuple[bool, bool]:
    """Restricts the rows of a policy to actions that keep clear of -inf wherever q can come.

    An action is struck from a row as soon as it is not clear in one of the cells that show the row and that q can meet.
    Where rows are shared this can strike too much, and leave a row with nothing. Then rows are tried with one action at
    a time (with every set of them, where its cells differ in what is possible), which finds a way whenever there is
    one, and what they need not give up is handed back. The largest support need not be unique, and another may have a
    higher bound.

    Args:
        bound: of the problem.
        policy: its `allowed` is set.
        limit: the most tries; all of them can be A^Z.

    Returns:
        (whether a support was found, whether all were tried).
    """
    possible = torch.isfinite(bound.log_prior)
    mixed = policy.mixed(possible)
    waiting = [iter([(policy.allowed, torch.zeros_like(mixed))])]
    for _ in range(limit):
        while waiting and (node := next(waiting[-1], None)) is None:
            waiting.pop()
        if not waiting:
            return False, True
        assert node is not None
        rows, decided = node
        left, stuck, met = _strike(bound, policy, rows, possible)
        if stuck is None:
            policy.allowed = _hand_back(bound, policy, left, decided, possible)
            return True, True
        open_rows = ~decided & (rows.sum(-1) > 1)
        blamed = stuck & open_rows if bool((stuck & open_rows).any()) else met & open_rows
        if bool(blamed.any()):
            waiting.append(_narrowed(rows, decided, torch.nonzero(blamed)[0], mixed))
    return False, False


def _narrowed(rows: Tensor, decided: Tensor, place: Tensor, mixed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows with one of them restricted to each set of its actions that must be tried, and that one decided."""
    at = tuple(place.tolist())
    actions = torch.nonzero(rows[at]).flatten().tolist()
    decided = decided.clone()
    decided[at] = True
    for size in range(1, len(actions) + 1) if bool(mixed[at]) else (1,):
        for chosen in itertools.combinations(actions, size):
            only = rows.clone()
            only[at] = False
            only[(*at, list(chosen))] = True
            yield only, decided


def _hand_back(bound: PolicyBound, policy: TiedParameters, rows: Tensor, decided: Tensor, possible: Tensor) -> Tensor:
    """Adds what fits beside the other rows to those that were narrowed down."""
    for place in torch.nonzero(decided).tolist():
        for action in torch.nonzero(~rows[tuple(place)]).flatten().tolist():
            more = rows.clone()
            more[(*place, action)] = True
            grown, stuck, _ = _strike(bound, policy, more, possible)
            rows = grown if stuck is None and bool((grown >= rows).all()) else rows
    return rows


def _strike(
    bound: PolicyBound, policy: TiedParameters, rows: Tensor, possible: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Strikes actions until none is left that is not clear where it is met.

    Returns:
        The rows [T or 1, Z, A]; bool [T or 1, Z], those that are left with nothing, None if there is no such row; and
        those that are met. Where no choice of rows could help, all are false.
    """
    shown = (policy.chances > 0)[..., None].double()
    while True:
        cells = policy.cells(rows, possible)
        allowed, clear = bound.clear(cells)
        if not clear:
            nothing = torch.zeros(rows.shape[:2], dtype=torch.bool)
            return rows, nothing, nothing
        at = bound.met(cells & allowed)
        met = policy.collect(at[..., None, None] * shown)[..., 0] > 0
        bad = (cells & ~allowed)[:, :, None] * shown
        struck = rows & (policy.collect(bad * at[..., None, None]) > 0)
        left = rows & ~struck
        stuck = policy.stuck(left, possible, at)
        if bool(stuck.any()):
            return left, stuck, met
        if not bool(struck.any()):
            strict = rows & ~(policy.collect(bad) > 0)
            better = ~met[..., None] & strict.any(-1, keepdim=True)
            return torch.where(better, strict, rows), None, met
        rows = left

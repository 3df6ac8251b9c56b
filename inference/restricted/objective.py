"""The bound of one policy, measured exactly: on a model's tables, or on a Pyro program whose latents are enumerated.

    bound = E_q[sum_t r_t] / alpha - KL(policy || prior)                               Levine 2018, equations (19), (22)

with start and dynamics those of the world. Its derivative in any parameter of the policy is, by the policy gradient,
sum_{t,s} d_t(s) sum_a dq_t(a|s) f_t(s, a), where d_t is q's own marginal and f = Q - log(q / p) with q's own tail worth
Q. So visits d and scores f are all that an optimiser needs, whatever the policy is made of.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.programs.enumerated import EnumeratedProgram, Term
from cai.inference.programs.guide import ExactSites, Redistribute, enumerate_program
from cai.inference.programs.posterior import conditional, step_joints
from cai.inference.programs.supports import find_supports
from cai.inference.restricted.classes import PolicyClass
from cai.inference.restricted.parameters import PolicyParameters, Shape, TiedParameters
from cai.inference.tabular.backward import forward
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.dynamic_programming import optimality_possible
from cai.inference.tabular.markov.chains import expected_visits
from cai.inference.tabular.policy_posterior import policy_values
from cai.models.common.numerics import expectation, safe_log
from cai.models.common.storage import storable
from cai.models.programs.inspect import Program, ProgramInfo
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Measured", "PolicyBound", "ProgramBound", "Problem", "TableBound", "begin"]

SHARED = (
    "states that share a row of the policy need different actions to avoid -inf, and what is left of the row is empty; "
    "give finer observations, or stationary=False, or rule out what leads into one of these states by `available`"
)


@storable("measured-policy")
class Measured(NamedTuple):
    """What one evaluation of a policy says.

    Attributes:
        bound: nats, 0-dim, the offset of optimality='bernoulli' included.
        visits: [T, S], q(s_t) (expected visits over an infinite horizon).
        scores: [T, S, A], Q - log(q / p) up to a number for each (t, s), nats; finite.
        usable: bool [T, S], nonterminal states from which q keeps clear of -inf.
    """

    bound: Tensor
    visits: Tensor
    scores: Tensor
    usable: Tensor


class PolicyBound(Protocol):
    """The bound as a function of a policy.

    Attributes:
        shape: of a policy.
        log_prior: [T, S, A] or [1, S, A], log p(a | s).
    """

    shape: Shape
    log_prior: Tensor

    def measure(self, log_policy: Tensor) -> Measured:
        """Evaluates log q, [T, S, A] or [1, S, A]."""

    def safe(self, cells: Tensor) -> tuple[Tensor, bool]:
        """Which actions are sure to avoid -inf if later choices are made well.

        Args:
            cells: bool [T, S, A], the actions that may be chosen from.

        Returns:
            Bool [T, S, A], part of `cells` (all of them where none is safe), and whether every start is safe.
        """

    def reachable(self, cells: Tensor) -> Tensor:
        """Bool [T, S], the nonterminal states that a policy which does all of `cells` can come to."""

    def possible(self) -> bool:
        """Whether p(O) > 0."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a fit of a policy works on.

    Attributes:
        model: the trajectory model or the program.
        info: of a program; None for a model.
        bound: measures policies exactly; None where nothing can be enumerated.
        policy: parameters, set to those of whatever state is looked at.
        log_prior: [T, S, A] or [1, S, A], log p(a | s), -inf also for what would lead to a reward of -inf.
        blocked: why no policy of the class rules out a reward of -inf; None if one does.
        why: what to do about it, where the status alone does not tell.
    """

    model: Any
    info: ProgramInfo | None
    bound: PolicyBound | None
    policy: PolicyParameters
    log_prior: Tensor
    blocked: Status | None = None
    why: str = ""

    @functools.cached_property
    def by_rows(self) -> bool:
        """Whether each state shows one row for sure, and states that share a row may do the same."""
        if not isinstance(self.policy, TiedParameters) or self.policy.slots.shape[1] > 1:
            return False
        return not bool(self.policy.mixed(torch.isfinite(self.log_prior)).any())


class TableBound:
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
        return Measured(bound, visits, scores, model.nonterminal & torch.isfinite(values))

    def safe(self, cells: Tensor) -> tuple[Tensor, bool]:
        model = self.model
        safe = torch.ones(self.shape.num_states, dtype=torch.bool)
        if model.is_finite:
            rows = []
            for t in reversed(range(model.steps)):
                rows.append(self._safe_actions(t, safe) & cells[t])
                safe = rows[-1].any(-1) | ~model.nonterminal
            allowed = torch.stack(rows[::-1])
        else:
            while True:
                allowed = (self._safe_actions(0, safe) & cells[0])[None]
                kept = allowed[0].any(-1) | ~model.nonterminal
                if bool((kept == safe).all()):
                    break
                safe = kept
        lost = ~allowed.any(-1, keepdim=True) | ~model.nonterminal[:, None]
        return torch.where(lost, cells, allowed), bool(safe[model.mdp.initial > 0].all())

    def _safe_actions(self, t: int, safe: Tensor) -> Tensor:
        """Bool [S, A], actions whose every outcome pays more than -inf and ends in a state that is safe, bool [S]."""
        mdp = self.model.mdp
        bad = (mdp.probabilities > 0) & (torch.isinf(self.model.reward_table(t)) | ~mdp.gather(safe))
        return ~bad.any(-1)

    def reachable(self, cells: Tensor) -> Tensor:
        model, here, rows = self.model, self.model.mdp.initial > 0, []
        possible = model.mdp.probabilities > 0
        for t in range(model.steps):
            while True:
                moves = possible & (here & model.nonterminal)[:, None, None] & cells[t][..., None]
                following = model.mdp.scatter(moves.double()) > 0
                if model.is_finite or bool((following <= here).all()):
                    break
                here = here | following
            rows.append(here & model.nonterminal)
            here = following
        return torch.stack(rows)

    def possible(self) -> bool:
        return optimality_possible(self.model)


class ProgramBound:
    """On a program: it is enumerated once, and every policy then takes the place of its action sites' tables."""

    def __init__(self, program: Program, info: ProgramInfo, *, seed: int) -> None:
        self.shape = Shape(info.horizon, info.num_states, info.num_actions)
        self.sizes = info.sizes
        handler = Redistribute(torch.zeros(self.shape, dtype=torch.float64), {})

        def guide() -> None:
            with handler, ExactSites():
                program()

        with pyro_session(seed, program), torch.no_grad():
            self.run = enumerate_program(guide, lambda: handler, unchanged=program).detach()
            own = enumerate_program(program)
            self._possible = bool(torch.isfinite(own.conditioned()[0]))
        self.contexts = dict(handler.contexts)
        uniform = torch.full(self.shape, 1.0 / info.num_actions, dtype=torch.float64)
        joints = [joint.sum(-1) for joint in step_joints(own.detach(), info)]
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
        return torch.stack(run.joints((f"s_{t + 1}",) for t in range(self.shape.steps)))

    def safe(self, cells: Tensor) -> tuple[Tensor, bool]:
        with torch.no_grad():
            found, feasible = find_supports(self.at(_uniform(cells)), self.contexts)
        rows = [found.get(f"a_{t + 1}", cells[t]) for t in range(self.shape.steps)]
        return torch.stack(rows) & cells, feasible

    def reachable(self, cells: Tensor) -> Tensor:
        return self._visits(self.at(_uniform(cells))) > 0

    def possible(self) -> bool:
        return self._possible


def _uniform(cells: Tensor) -> Tensor:
    """Log probabilities of the uniform policy over `cells`; over everything where nothing is left."""
    cells = cells | ~cells.any(-1, keepdim=True)
    return torch.where(cells, 0.0, -torch.inf).double() - cells.sum(-1, keepdim=True).double().log()


def begin(policy_class: PolicyClass, bound: PolicyBound, model: Any, info: ProgramInfo | None) -> Problem:
    """New parameters, with every action ruled out that would lead to a reward of -inf, if the class can do without."""
    policy, log_prior, feasible, why = policy_class.start(bound.shape, bound.log_prior), bound.log_prior, True, ""
    if isinstance(policy, TiedParameters):
        feasible, others = _rule_out(bound, policy)
        why = "" if feasible or not others else SHARED
    else:
        allowed, feasible = bound.safe(torch.isfinite(log_prior).expand(bound.shape))
        log_prior = torch.where(allowed, log_prior, -torch.inf)
    blocked = None
    if not feasible:
        blocked = Status.UNAVOIDABLE if bound.possible() else Status.IMPOSSIBLE
    return Problem(model, info, bound, policy, log_prior, blocked, why)


def _rule_out(bound: PolicyBound, policy: TiedParameters) -> tuple[bool, bool]:
    """Restricts the rows of a policy to actions that keep clear of -inf wherever q can come.

    An action is removed from a row as soon as it is not safe in one of the states that show the row and that q can
    reach. Where rows are shared this can remove more than needed, and leave a row with nothing: the states that share
    it need different actions, or must not be reached together. Which of the up to A^Z choices of rows would do is not
    searched for.

    Args:
        bound: of the problem.
        policy: its `allowed` is set.

    Returns:
        (whether -inf is ruled out, whether some policy might do so although this one cannot).
    """
    possible, rows, removed_any = torch.isfinite(bound.log_prior), policy.allowed, False
    shown = (policy.chances > 0)[..., None]
    while True:
        cells = policy.cells(rows, possible)
        safe, feasible = bound.safe(cells)
        if not feasible:
            return False, removed_any
        reached = bound.reachable(cells & safe)
        here = reached[..., None, None] & shown
        unsafe = (cells & ~safe)[:, :, None] & shown
        removed = rows & (policy.collect(unsafe & here) > 0)
        if not bool(removed.any()):
            break
        rows, removed_any = rows & ~removed, True
        empty = ~(rows[:, policy.slots] & possible[..., None, :]).any(-1)
        if bool((empty & here[..., 0]).any()):
            return False, True
    strict = rows & ~(policy.collect(unsafe) > 0)  # rows that q does not reach avoid -inf where they can
    unmet = ~(policy.collect(here) > 0)
    policy.allowed = torch.where(unmet & strict.any(-1, keepdim=True), strict, rows)
    return True, True

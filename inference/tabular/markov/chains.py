"""Chains without an end: where they can go, how often they are where, and whether they ever stop."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from cai.inference.tabular.believed_dynamics import OutcomeDynamics
from cai.inference.tabular.markov.full_systems import FullPattern
from cai.inference.tabular.markov.graphs import closed_classes
from cai.inference.tabular.markov.linear_systems import LinearSystem, SystemPattern
from cai.inference.tabular.markov.reachability import edges_of, leads_to, reached_from
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "SOLVE_LIMIT",
    "ChainSystems",
    "EndingChain",
    "can_succeed",
    "ended_states",
    "expected_visits",
    "has_trap",
    "long_run",
    "meets_forbidden",
    "pays_for_ever",
    "transition_matrix",
]

SEEN = 1e-290  # a probability whose product with that of its likeliest outcome is no less than a float holds
STILL = 1e-9  # what a step changes of where a chain is, below which more of them show nothing
SOLVE_LIMIT = 3000  # states up to which policies over an infinite horizon are evaluated by `transition_matrix`


def transition_matrix(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> Tensor:
    """[S, S], the probability under a policy [S, A] and stationary dynamics of going on from s to s'."""
    weights = policy[..., None] * dynamics.outcomes(0)[0]
    num_states = model.mdp.num_states
    following = model.mdp.successors().expand_as(weights)
    matrix = weights.new_zeros(num_states, num_states)
    return matrix.scatter_add(1, following.reshape(num_states, -1), weights.reshape(num_states, -1))


class ChainSystems:
    """The systems I - P of chains that stay among some states of a model; they share their places, and so the rule.

    Args:
        model: the trajectory model.
        counts: bool [S], the states that the chain is solved on.
    """

    def __init__(self, model: TrajectoryModel, counts: Tensor) -> None:
        self.model, self.counts = model, counts
        self.states = torch.nonzero(counts).flatten()
        number = len(self.states)
        self.dense = model.mdp.next_states is None
        if self.dense:
            self.pattern: SystemPattern = FullPattern(number)
            return
        following = model.mdp.successors()
        place = torch.cumsum(counts, 0) - 1
        possible = (model.mdp.probabilities.detach() > 0) & counts[:, None, None] & counts[following]
        self.entries = torch.nonzero(possible.reshape(-1)).flatten()
        width = possible[0].numel()
        rows = place[torch.div(self.entries, width, rounding_mode="floor")]
        self.pattern = SystemPattern(rows, place[following.reshape(-1)[self.entries]], number)

    def system(self, moves: Tensor, falls: Tensor | None = None) -> LinearSystem:
        """I - P of a chain.

        Args:
            moves: [S, A, K], the chance of each action and outcome; of tables [S, 1, S] does.
            falls: [S, A, K], that of falling into the absorbing state with it; none unless given.
        """
        onward = moves.sum(1) if self.dense else moves
        with torch.no_grad():
            if self.dense:
                outside = onward[:, ~self.counts].sum(1)
            else:
                leads_out = ~self.counts[self.model.mdp.successors()]
                outside = torch.where(leads_out, moves, torch.zeros_like(moves)).sum((1, 2))
            exits = (outside if falls is None else outside + falls.sum((1, 2)))[self.states]
        if self.dense:
            inner = onward if bool(self.counts.all()) else onward[self.states][:, self.states]
            return self.pattern.system(inner.reshape(-1), exits)
        return self.pattern.system(moves.reshape(-1)[self.entries], exits)

    def spread(self, solution: Tensor) -> Tensor:
        """A solution [N] at its states, 0 elsewhere: [S]."""
        return solution.new_zeros(len(self.counts)).index_add(0, self.states, solution)


def ended_states(model: TrajectoryModel, policy: Tensor, chances: Tensor, falls: Tensor | None = None) -> Tensor:
    """Bool [S], nonterminal states of closed classes in which nothing is ever paid: chains that got there have ended.

    Args:
        model: the trajectory model.
        policy: [S, A].
        chances: [S, A, K], of each outcome.
        falls: [S, A, K], that of falling into the absorbing state with it; none unless given.
    """
    none = torch.zeros_like(model.nonterminal)
    if not may_end_unpaid(model, policy) or (falls is not None and bool((falls > 0).any())):
        return none
    moves = ((policy[..., None] * chances) > 0) & model.nonterminal[:, None, None]
    pays = (moves & (model.reward_table(0).detach() != 0)).any(-1).any(-1)
    if not bool((model.nonterminal & ~pays).any()):
        return none
    origins, targets = edges_of(moves, model.mdp.successors())
    found = none.cpu().numpy()
    for states in closed_classes(origins.cpu().numpy(), targets.cpu().numpy(), model.nonterminal.cpu().numpy()):
        found[states] = not bool(pays[torch.from_numpy(states).to(pays.device)].any())
    return torch.from_numpy(found).to(none.device)


def may_end_unpaid(model: TrajectoryModel, policy: Tensor) -> bool:
    """Whether `ended_states` have to be looked for: not under a discount, nor where every state pays at once."""
    if model.discount < 1:
        return False
    rewards = model.reward_table(0).detach()
    if rewards.shape[-1] > 1:
        return True
    pays = ((policy > SEEN) & (rewards[..., 0] != 0)).any(-1)
    return bool((model.nonterminal & ~pays).any())


class EndingChain:
    """A chain that surely ends, as a linear system over the nonterminal states that it meets; solved as often as asked.

    States that are stayed among for ever and never pay count as an end.

    Args:
        model: the trajectory model.
        initial: [S], where the chain begins.
        policy: [1, S, A].
        dynamics: stationary.

    Attributes:
        fallen: [S], the chance of falling into the absorbing state.
        edges: (sources, targets), int64, where the chain goes on.
        counts: bool [S], the states that it is solved on.

    Raises:
        ValueError: if the chain can get to where it goes on being paid for ever.
    """

    def __init__(self, model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics) -> None:
        mdp, nonterminal = model.mdp, model.nonterminal
        self.model, self.initial, self._policy, self._dynamics = model, initial, policy[0], dynamics
        ended = torch.zeros_like(nonterminal)
        if may_end_unpaid(model, policy[0].detach()):
            ended = ended_states(model, policy[0].detach(), *(part.detach() for part in dynamics.outcomes(0)))
        moves, falls = (part * nonterminal[:, None, None] for part in dynamics.onward(policy[0]))
        self.fallen = falls.sum((1, 2))
        self.edges = edges_of(moves.detach() > 0, mdp.successors())
        met = reached_from(*self.edges, initial.detach() > 0)
        ends = leads_to(*self.edges, ~nonterminal | ended | (self.fallen.detach() > 0))
        if bool((met & ~ends).any()):
            state = int(torch.nonzero(met & ~ends)[0])
            raise ValueError(
                f"the policy can get to state {mdp.state_name(state)} and never end from there, so expectations over "
                "an infinite horizon do not exist; give a discount < 1 or a finite horizon"
            )
        self.counts = nonterminal & met & ~ended
        self._chains = ChainSystems(model, self.counts)
        self._system = self._chains.system(moves, falls)

    @cached_property
    def moves(self) -> Tensor:
        """[S, A, K], the chance in a nonterminal state of each action and outcome with which the chain goes on."""
        return self._policy[..., None] * self._dynamics.outcomes(0)[0] * self.model.nonterminal[:, None, None]

    @cached_property
    def falls(self) -> Tensor:
        """[S, A, K], that of each action and outcome after which it falls into the absorbing state."""
        return self._policy[..., None] * self._dynamics.outcomes(0)[1] * self.model.nonterminal[:, None, None]

    def visits(self) -> Tensor:
        """[S], the expected visits of nonterminal states, d = p(s_1) + P^T d; 0 where the chain counts as ended."""
        return self._solve(self.initial[self.counts], transposed=True).clamp(min=0)

    def sums(self, paid: Tensor) -> Tensor:
        """[S], what is paid [S] from each state on until the chain ends, in expectation: v = paid + P v."""
        return self._solve(paid[self.counts], transposed=False)

    def _solve(self, side: Tensor, *, transposed: bool) -> Tensor:
        try:
            return self._chains.spread(self._system.solve(side, transposed=transposed))
        except ArithmeticError as error:
            raise ValueError(
                f"the policy ends too late for its visits to be added up ({error}), so expectations over an infinite "
                "horizon are not known; give a discount < 1 or a finite horizon"
            ) from None


def expected_visits(
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """Expected visits of the nonterminal states [1, S], and the probability of ending in the absorbing state [1].

    For how, see `EndingChain` and `cai.inference.tabular.markov.linear_systems`.

    Raises:
        ValueError: if the chain can get to where it goes on being paid for ever, so that visits do not add up to a
            number, or to where it ends too late for float64 to tell.
    """
    chain = EndingChain(model, initial, policy, dynamics)
    visits = chain.visits()
    return visits[None], (visits * chain.fallen).sum()[None]


def long_run(model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics) -> Tensor:
    """[S], how often a chain without an end is where in the long run: the mean of its marginals over all time.

    Args:
        model: the trajectory model, of discount 1 and without terminal states.
        initial: [S], of the chain.
        policy: [S, A].
        dynamics: stationary.

    Raises:
        ValueError: if the chain mixes too slowly for float64 to tell.
    """
    moves = dynamics.onward(policy)[0]
    origins, targets = edges_of(moves.detach() > 0, model.mdp.successors())
    met = reached_from(origins, targets, initial.detach() > 0)
    classes = closed_classes(origins.cpu().numpy(), targets.cpu().numpy(), met.cpu().numpy())
    found, into = torch.zeros_like(initial), None
    try:
        if len(classes) > 1:
            before = met.clone()
            for states in classes:
                before[torch.from_numpy(states).to(met.device)] = False
            into = initial
            if bool(before.any()):
                chains = ChainSystems(model, before)
                passed = chains.spread(chains.system(moves).solve(initial[before], transposed=True))
                into = into + _sent(model, passed, moves)
        for states in classes:
            inside = torch.zeros_like(met)
            inside[torch.from_numpy(states).to(met.device)] = True
            law = _class_law(model, moves, inside, _often(model, moves.detach(), inside))
            found = found + (law if into is None else law * into[inside].sum())
    except ArithmeticError as error:
        raise ValueError(f"the chain mixes too slowly for its long run to be known ({error})") from None
    return found / found.sum()


def _sent(model: TrajectoryModel, here: Tensor, moves: Tensor) -> Tensor:
    """[S], where a chain is one step after it was here, [S]."""
    if model.mdp.next_states is None:
        return here @ (moves.sum(1) if moves.dim() == 3 else moves)
    return model.mdp.scatter(here[:, None, None] * moves)


def _often(model: TrajectoryModel, moves: Tensor, inside: Tensor) -> int:
    """A state that is seen often after 200 steps in a closed class: between visits to another, floats tell little."""
    here = inside / inside.sum().to(moves)
    moves = moves.sum(1) if model.mdp.next_states is None else moves
    for _ in range(200):
        before, here = here, (here + _sent(model, here, moves)) / 2
        if float((here - before).abs().sum()) < STILL:
            break
    return int(here.argmax())


def _class_law(model: TrajectoryModel, moves: Tensor, inside: Tensor, reference: int) -> Tensor:
    """[S], the long run of a closed class, from the visits between two of a state."""
    counts, here = inside.clone(), torch.zeros_like(moves[:, 0, 0])
    counts[reference], here[reference] = False, 1.0
    if not bool(counts.any()):
        return here
    chains = ChainSystems(model, counts)
    side = _sent(model, here, moves)[counts]
    visits = here + chains.spread(chains.system(moves).solve(side, transposed=True).clamp(min=0))
    return visits / visits.sum()


def pays_for_ever(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> bool:
    """Whether the chain can come to where it earns nothing for ever by a policy [S, A] that departs from the prior."""
    if model.discount < 1:
        return False
    policy = policy.detach()
    if not may_end_unpaid(model, policy):
        return False
    alive, fallen = (part.detach() for part in dynamics.outcomes(0))
    ended = ended_states(model, policy, alive, fallen)
    departs = ended & ((policy - model.action_prior.detach()).abs() > 1e-12).any(-1)
    if not bool(departs.any()):
        return False
    origins, targets = edges_of((policy[..., None] * alive) > 0, model.mdp.successors())
    return bool((departs & reached_from(origins, targets, model.mdp.initial.detach() > 0)).any())


def meets_forbidden(model: TrajectoryModel, policy: Tensor) -> bool:
    """Whether the true chain may ever meet a reward of -inf by a policy [S, A], on the way to its long run, too."""
    moves = (policy.detach()[..., None] * model.mdp.probabilities.detach()) > 0
    forbidden = (moves & torch.isneginf(model.reward_table(0).detach())).any(-1).any(-1)
    if not bool(forbidden.any()):
        return False
    origins, targets = edges_of(moves, model.mdp.successors())
    return bool((forbidden & reached_from(origins, targets, model.mdp.initial.detach() > 0)).any())


def has_trap(model: TrajectoryModel) -> bool:
    """Whether, without a discount, the start can lead to a state from which no terminal one is within reach."""
    if model.discount < 1:
        return False
    origins, targets = edges_of(_taken(model), model.mdp.successors())
    met = reached_from(origins, targets, model.mdp.initial.detach() > 0)
    return bool((met & model.nonterminal & ~leads_to(origins, targets, model.mdp.terminal)).any())


def can_succeed(model: TrajectoryModel) -> bool:
    """Whether some trajectory of an infinite horizon ends, or comes to where nothing is paid, and meets no -inf."""
    rewards = model.reward_table(0).detach()
    possible = _taken(model) & ~torch.isinf(rewards)
    pays = (_taken(model) & (rewards != 0)).any(-1).any(-1)
    ends = ~leads_to(*edges_of(_taken(model), model.mdp.successors()), pays)  # where nothing is ever paid
    if model.discount < 1:
        ends = ends | possible.any(-1).any(-1)
    return bool(((model.mdp.initial.detach() > 0) & leads_to(*edges_of(possible, model.mdp.successors()), ends)).any())


def _taken(model: TrajectoryModel) -> Tensor:
    """Bool [S, A, K]: the outcomes that may happen under the action prior."""
    return (model.action_prior.detach()[..., None] > 0) & (model.mdp.probabilities.detach() > 0)

"""Evaluation in the true world against every trajectory of tiny problems, and rollouts against expectations."""

import math
import random
import re
import sys

import pytest
import torch

from cai import MDP, Policy, TrajectoryModel, evaluate, extract_policy, infer
from cai.models import OutcomeReward, TableReward, bridge, lottery

Z = 6.0  # standard errors: fails by chance about twice in 1e9
DEAD = -1  # the discount's absorbing state, in the plain-Python enumeration

S, A, T = 4, 2, 3
TERMINAL = 3


# ---- every trajectory, by plain loops ----------------------------------------------------------------------------


def simplex(source, size):
    weights = [source.random() + 0.05 for _ in range(size)]
    return [weight / sum(weights) for weight in weights]


class Problem:
    """A random problem as outcome lists, its model (dense or listed), and a random policy, different at each time."""

    def __init__(self, seed, *, dense, terminal, discount, forbidden=False):
        source = random.Random(seed)
        self.discount, self.dead = discount, {TERMINAL} if terminal else set()
        self.start = simplex(source, S)
        self.policy = [[simplex(source, A) for _ in range(S)] for _ in range(T)]
        outcomes = S if dense else 3
        self.table = [[self._row(source, s, outcomes, dense) for _ in range(A)] for s in range(S)]
        if forbidden:
            p, following, _ = self.table[0][1][0]
            self.table[0][1][0] = (p, following, -math.inf)
        probabilities, following, rewards = (
            torch.tensor([[[entry[i] for entry in row] for row in rows] for rows in self.table], dtype=dtype)
            for i, dtype in enumerate((torch.float64, torch.int64, torch.float64))
        )
        start = torch.tensor(self.start, dtype=torch.float64)
        ends = sorted(self.dead)
        if dense:
            mdp, reward = MDP(probabilities, start, terminal=ends), TableReward(rewards)
        else:
            mdp = MDP.from_successors(following, probabilities, start, terminal=ends)
            reward = OutcomeReward(rewards)
        self.model = TrajectoryModel(mdp, reward, horizon=T, discount=discount)

    def _row(self, source, state, outcomes, dense):
        if state in self.dead:
            stays = state if dense else 0
            return [(float(k == stays), k if dense else state, 0.0) for k in range(outcomes)]
        weights = simplex(source, outcomes)
        return [(p, k if dense else source.randrange(S), source.uniform(-2, 2)) for k, p in enumerate(weights)]

    def trajectories(self):
        """(probability, states of times 1 .. T + 1, return, sum of policy entropies) of every trajectory."""
        paths = [(p, [s], 0.0, 0.0) for s, p in enumerate(self.start)]
        for t in range(T):
            longer = []
            for weight, states, total, entropy in paths:
                state = states[-1]
                if state == DEAD or state in self.dead:
                    longer.append((weight, [*states, state], total, entropy))
                    continue
                row = self.policy[t][state]
                here = entropy - sum(p * math.log(p) for p in row)
                for a in range(A):
                    for p, following, reward in self.table[state][a]:
                        w = weight * row[a] * p
                        longer.append((w * self.discount, [*states, following], total + reward, here))
                        if self.discount < 1:
                            longer.append((w * (1 - self.discount), [*states, DEAD], total + reward, here))
            paths = longer
        return paths

    def outcome(self, **options):
        return evaluate(Policy(torch.tensor(self.policy, dtype=torch.float64)), self.model, **options)


CASES = [
    pytest.param(seed, {"dense": dense, "terminal": terminal, "discount": discount}, id=f"{seed}{kind}{end}{discount}")
    for seed in (0, 1)
    for dense, kind in ((True, "-dense"), (False, "-lists"))
    for terminal, end in ((True, "-terminal-"), (False, "-endless-"))
    for discount in (1.0, 0.7)
]


def test_the_enumeration_is_a_distribution():
    for discount in (1.0, 0.7):
        problem = Problem(0, dense=True, terminal=True, discount=discount)
        assert math.fsum(path[0] for path in problem.trajectories()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("seed", "options"), CASES)
def test_expected_return(seed, options):
    problem = Problem(seed, **options)
    expected = math.fsum(weight * total for weight, _, total, _ in problem.trajectories())
    assert problem.outcome(num_rollouts=2).expected_return == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("seed", "options"), CASES)
def test_entropy(seed, options):
    problem = Problem(seed, **options)
    expected = math.fsum(weight * entropy for weight, _, _, entropy in problem.trajectories())
    assert problem.outcome(num_rollouts=2).entropy == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("seed", "options"), CASES)
def test_occupancy(seed, options):
    problem = Problem(seed, **options)
    expected = torch.zeros(T + 1, S, dtype=torch.float64)
    for weight, states, _, _ in problem.trajectories():
        for t, state in enumerate(states):
            if state != DEAD:
                expected[t, state] += weight
    torch.testing.assert_close(problem.outcome(num_rollouts=2).occupancy, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("seed", "options"), CASES)
def test_ends_in_and_visits(seed, options):
    problem = Problem(seed, **options)
    regions = {"first": [0], "pair": [1, 2], "last": [3], "all": [0, 1, 2, 3]}
    outcome = problem.outcome(num_rollouts=2, regions=regions)
    paths = problem.trajectories()
    for name, members in regions.items():
        ends = math.fsum(weight for weight, states, _, _ in paths if states[-1] in members)
        visits = math.fsum(weight for weight, states, _, _ in paths if set(states) & set(members))
        assert outcome.ends_in[name] == pytest.approx(ends, abs=1e-12), name
        assert outcome.visits[name] == pytest.approx(visits, abs=1e-12), name


@pytest.mark.parametrize(("seed", "options"), CASES)
def test_rollouts_agree_with_the_enumeration(seed, options):
    problem = Problem(seed, **options)
    paths = problem.trajectories()
    mean = math.fsum(weight * total for weight, _, total, _ in paths)
    spread = math.sqrt(math.fsum(weight * (total - mean) ** 2 for weight, _, total, _ in paths))
    outcome = problem.outcome(num_rollouts=5000)
    assert float(outcome.returns.mean()) == pytest.approx(mean, abs=Z * spread / math.sqrt(5000))
    assert outcome.std == pytest.approx(spread, rel=0.1)  # 1 / sqrt(2 N) is 1%
    assert set(outcome.returns.round(decimals=9).tolist()) <= {round(total, 9) for _, _, total, _ in paths}


# ---- rollouts and tails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_rollouts_on_the_bridge_agree_with_the_exact_return(backend, discount):
    model = bridge(discount=discount)
    outcome = evaluate(extract_policy(infer(model, backend)), model, num_rollouts=4000, seed=2)
    assert outcome.returns.shape == (4000,)
    assert outcome.standard_error == pytest.approx(outcome.std / math.sqrt(4000), rel=1e-12)
    assert abs(float(outcome.returns.mean()) - outcome.expected_return) <= Z * outcome.standard_error


def gamble():
    """Always gambling in the lottery: 0 or -10, evenly."""
    return Policy([[0.0, 1.0]] * 4)


def test_moments_of_a_two_point_distribution():
    outcome = evaluate(gamble(), lottery(0.7), num_rollouts=4000)
    lost = outcome.returns == -10.0
    assert torch.equal(outcome.returns[~lost], torch.zeros(int((~lost).sum()), dtype=torch.float64))
    assert outcome.expected_return == pytest.approx(-3.0, abs=1e-12)
    assert float(lost.double().mean()) == pytest.approx(0.3, abs=Z * math.sqrt(0.21 / 4000))
    assert outcome.std == pytest.approx(10 * math.sqrt(0.21), rel=0.1)
    assert outcome.entropy == 0.0


@pytest.mark.parametrize(("tail", "expected"), [(0.05, -10.0), (0.2, -10.0), (0.5, -6.0), (1.0, -3.0)])
def test_cvar_of_a_two_point_distribution(tail, expected):
    # the worst share `tail` holds min(tail, 0.3) of losses of 10
    outcome = evaluate(gamble(), lottery(0.7), num_rollouts=4000, tail=tail)
    noise = 0.0 if tail < 0.3 else Z * 10 * math.sqrt(0.21 / 4000) / tail
    assert outcome.cvar == pytest.approx(expected, abs=noise + 1e-12)
    assert outcome.tail == tail


def test_certain_returns_have_no_spread():
    outcome = evaluate(Policy([[1.0, 0.0]] * 4), lottery(), num_rollouts=10)
    assert (outcome.expected_return, outcome.std, outcome.cvar, outcome.standard_error) == (-1.0, 0.0, -1.0, 0.0)


def test_cvar_averages_the_stated_share_of_the_samples():
    outcome = evaluate(gamble(), lottery(0.95), num_rollouts=100, tail=0.07, seed=1)
    worst = sorted(outcome.returns.tolist())[:7]
    assert outcome.cvar == pytest.approx(sum(worst) / 7, abs=1e-12)


# ---- forbidden outcomes ------------------------------------------------------------------------------------------


def test_forbidden_outcome_makes_the_return_minus_infinity():
    outcome = evaluate(gamble(), lottery(lose_reward=-math.inf))
    assert outcome.expected_return == -math.inf
    assert outcome.std == math.inf
    assert outcome.standard_error == math.inf
    assert outcome.cvar == -math.inf


@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize("dense", [True, False])
def test_forbidden_outcome_leaves_no_nan(dense, discount):
    outcome = Problem(0, dense=dense, terminal=True, discount=discount, forbidden=True).outcome()
    assert outcome.expected_return == -math.inf
    numbers = [outcome.expected_return, outcome.standard_error, outcome.std, outcome.cvar, outcome.entropy]
    assert not any(math.isnan(number) for number in numbers)
    assert not torch.isnan(outcome.returns).any()
    assert not torch.isnan(outcome.occupancy).any()


def test_forbidden_outcome_too_rare_for_the_rollouts_still_counts():
    outcome = evaluate(gamble(), lottery(1 - 1e-9, lose_reward=-math.inf), num_rollouts=100)
    assert torch.isfinite(outcome.returns).all()  # the premise: no rollout meets it
    assert outcome.expected_return == -math.inf
    assert (outcome.std, outcome.standard_error) == (math.inf, math.inf)


def test_forbidden_outcome_that_is_avoided_does_not_count():
    outcome = evaluate(Policy([[1.0, 0.0]] * 4), lottery(lose_reward=-math.inf))
    assert (outcome.expected_return, outcome.std) == (-1.0, 0.0)


# ---- infinite horizons -------------------------------------------------------------------------------------------


def endless(horizon, *, discount, terminal):
    """A fixed random problem and a stationary policy for it."""
    source = random.Random(7)
    table = [[simplex(source, S) for _ in range(A)] for _ in range(S)]
    rewards = [[source.uniform(-2, 2) for _ in range(A)] for _ in range(S)]
    if terminal:
        table[TERMINAL] = [[0.0, 0.0, 0.0, 1.0]] * A
        rewards[TERMINAL] = [0.0] * A
    mdp = MDP(torch.tensor(table, dtype=torch.float64), torch.tensor(simplex(source, S), dtype=torch.float64),
              terminal=[TERMINAL] if terminal else None, regions={"last": [TERMINAL]})  # fmt: skip
    model = TrajectoryModel(mdp, torch.tensor(rewards, dtype=torch.float64), horizon=horizon, discount=discount)
    return model, Policy(torch.tensor([simplex(source, A) for _ in range(S)], dtype=torch.float64))


ENDLESS = [
    pytest.param({"discount": 0.8, "terminal": False}, id="discounted"),
    pytest.param({"discount": 0.8, "terminal": True}, id="both"),
    pytest.param({"discount": 1.0, "terminal": True}, id="terminal"),
]


@pytest.mark.parametrize("options", ENDLESS)
def test_infinite_horizon_is_the_limit_of_long_ones(options):
    model, policy = endless(math.inf, **options)
    forever = evaluate(policy, model, num_rollouts=2)
    long = evaluate(policy, endless(400, **options)[0], num_rollouts=2)
    assert forever.expected_return == pytest.approx(long.expected_return, abs=1e-9)
    assert forever.entropy == pytest.approx(long.entropy, abs=1e-9)
    assert forever.occupancy.shape == (1, S)
    nonterminal = ~model.mdp.terminal
    torch.testing.assert_close(forever.occupancy[0][nonterminal], long.occupancy.sum(0)[nonterminal], rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", ENDLESS)
def test_rollouts_of_an_infinite_horizon_end(options):
    model, policy = endless(math.inf, **options)
    outcome = evaluate(policy, model, num_rollouts=4000)
    assert abs(float(outcome.returns.mean()) - outcome.expected_return) <= Z * outcome.standard_error
    assert (outcome.ends_in, outcome.visits) == (None, None)


def test_chain_that_never_ends_is_refused():
    mdp = MDP.from_successors([[[0], [1]], [[1], [1]]], [[[1.0], [1.0]], [[1.0], [1.0]]], [1.0, 0.0], terminal=[1])
    model = TrajectoryModel(mdp, -1.0, horizon=math.inf)
    with pytest.raises(ValueError, match="never end"):
        evaluate(Policy([[1.0, 0.0]] * 2), model)


# ---- seeds, regions, refusals ------------------------------------------------------------------------------------


def test_seeds_reproduce():
    model = bridge()
    policy = extract_policy(infer(model))
    first, second, other = (evaluate(policy, model, seed=seed, num_rollouts=200) for seed in (5, 5, 6))
    assert torch.equal(first.returns, second.returns)
    assert (first.std, first.cvar) == (second.std, second.cvar)
    assert not torch.equal(first.returns, other.returns)


@pytest.mark.parametrize("horizon", [20, math.inf])
def test_global_random_state_is_left_alone(horizon):
    model = bridge(horizon=horizon)
    policy = extract_policy(infer(model))
    before = torch.get_rng_state()
    evaluate(policy, model)
    assert torch.equal(torch.get_rng_state(), before)


def test_regions_of_the_process_and_of_the_caller():
    outcome = evaluate(gamble(), lottery(0.7), regions={"won": "won", "over": ["safe", "won", "lost"]})
    assert dict(outcome.ends_in) == pytest.approx({"lost": 0.3, "won": 0.7, "over": 1.0}, abs=1e-12)
    assert dict(outcome.visits) == pytest.approx({"lost": 0.3, "won": 0.7, "over": 1.0}, abs=1e-12)


def test_regions_as_masks_and_indices_are_the_same():
    mask = torch.tensor([False, False, True, False])
    outcome = evaluate(gamble(), lottery(), regions={"mask": mask, "index": [2]})
    assert outcome.ends_in["mask"] == outcome.ends_in["index"] == pytest.approx(0.5, abs=1e-12)


def test_a_longer_policy_is_cut_to_the_horizon():
    first = torch.tensor([[[0.0, 1.0]] * 4, [[1.0, 0.0]] * 4])
    assert evaluate(Policy(first), lottery()).expected_return == pytest.approx(-5.0, abs=1e-12)


def test_too_short_a_policy_is_refused():
    with pytest.raises(ValueError, match="knows 1 steps, the model has 2"):
        evaluate(Policy([[[0.5, 0.5]] * 4]), lottery(horizon=2))


def test_policy_of_another_size_is_refused():
    with pytest.raises(ValueError, match="1 states and 2 actions"):
        evaluate(Policy([[0.5, 0.5]]), lottery())


def test_finite_policy_for_an_infinite_horizon_is_refused():
    with pytest.raises(ValueError, match="stationary"):
        evaluate(Policy([[[0.5, 0.5]] * 4]), lottery(horizon=math.inf))


def test_action_that_is_not_available_is_refused():
    available = torch.tensor([[True, False]])
    model = TrajectoryModel(MDP([[[1.0], [1.0]]], [1.0], available=available), 0.0, horizon=1)
    with pytest.raises(ValueError, match="not available"):
        evaluate(Policy([[0.5, 0.5]]), model)


@pytest.mark.parametrize(("options", "message"), [
    ({"num_rollouts": 1}, "num_rollouts"), ({"tail": 0.0}, "tail"), ({"tail": 1.5}, "tail"),
    ({"tail": math.nan}, "tail"), ({"regions": {"x": [9]}}, "state 9"),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(gamble(), lottery(), **options)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="expected a Policy"):
        evaluate([[0.5, 0.5]] * 4, lottery())
    with pytest.raises(TypeError, match="TrajectoryModel"):
        evaluate(gamble(), 3)


def test_rollouts_that_are_cut_off_say_so(monkeypatch, caplog):
    """A warning and a field say how many were cut; what is left of them has the right mean and spread."""
    monkeypatch.setattr(sys.modules["cai.evaluation.endless_rollouts"], "WORK", 50 * 4500)
    stay = TrajectoryModel(MDP([[[1.0]]], [1.0]), [1.0], horizon=math.inf, discount=0.99)
    policy = extract_policy(infer(stay, "variational"))
    outcome = evaluate(policy, stay, num_rollouts=4000)
    left, steps = map(
        int, re.match(r"(\d+) of 4000 rollouts had not ended after (\d+) steps", caplog.messages[0]).groups()
    )
    assert outcome.cut == left
    assert left / 4000 == pytest.approx(0.99**steps, abs=Z * 0.5 / math.sqrt(4000))
    assert outcome.expected_return == pytest.approx(100.0)
    assert outcome.std == pytest.approx(100 * math.sqrt(0.99), rel=1e-12)
    assert float(outcome.returns.mean()) == pytest.approx(100, abs=Z * outcome.standard_error)
    assert float(outcome.returns.std()) == pytest.approx(outcome.std, rel=0.15)
    whole = outcome.returns[outcome.returns == outcome.returns.round()]
    assert len(whole) == 4000 - left
    caplog.clear()
    brief = stay.replace(discount=0.5)
    assert evaluate(policy, brief, num_rollouts=200).cut == 0
    assert evaluate(policy, stay.replace(horizon=20), num_rollouts=200).cut == 0
    assert caplog.text == ""

"""The most probable trajectory, against the largest of all trajectories one by one, and the plan that follows it."""

import math
from collections import defaultdict

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from campaigns import over_seeds
from oracle import exact, log_sum, paths, random_problem
from refusals import check, holds_no_nan

import cai
from cai.inference import InferenceError, Status, SumProduct
from cai.inference.backends.max_product import MaxProduct
from cai.inference.core.most_probable import most_probable_trajectory
from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel, bridge

INF = math.inf
HALF = torch.ones(2, dtype=torch.float64) / 2


def close(left, right, tolerance=1e-9):
    left, right = float(left), float(right)
    if math.isinf(left) or math.isinf(right):
        return left == right
    return abs(left - right) <= tolerance * max(1.0, abs(right))


def follow(problem, state, steps):
    """A path as what counts of it: states and actions, S once fallen, no action where there is nothing to do."""
    states, actions = [state], []
    for t in range(problem.horizon):
        ended = t >= len(steps) or problem.terminal[states[-1]]
        actions.append(None if ended else steps[t][1])
        if t >= len(steps):
            states.append(states[-1])
        else:
            states.append(problem.num_states if steps[t][2] is None else steps[t][2])
    return tuple(states), tuple(actions)


def every(problem, state, t=0, chance=1.0):
    """{trajectory: log p(tau, O)} from (t, state): outcomes that share a next state count together."""
    found = defaultdict(list)
    for steps, probability, reward in paths(problem, state, t):
        pad = [(None, None, state, None)] * t
        key = follow(problem, state, [*pad, *steps])
        found[key].append(math.log(chance * probability) + reward / problem.temperature)
    return {key: log_sum(scores) for key, scores in found.items()}


def all_trajectories(problem):
    found = {}
    for state, chance in enumerate(problem.initial):
        if chance > 0:
            found |= every(problem, state, 0, chance)
    return found


def key_of(problem, states, actions):
    """What counts of a trajectory that the library gives."""
    ended = [s == problem.num_states or problem.terminal[s] for s in states.tolist()]
    return tuple(states.tolist()), tuple(
        None if over else a for over, a in zip(ended[:-1], actions.tolist(), strict=True)
    )


# ---- against brute force -----------------------------------------------------------------------------------------


@over_seeds(range(120), quick=30)
def test_max_product_is_the_largest_of_all_trajectories(seeds):
    for seed in seeds:
        problem = random_problem(seed)
        got, scores = MaxProduct().run(problem.model), all_trajectories(problem)
        best = max(scores.values())
        if best == -INF:
            assert got.status is Status.IMPOSSIBLE, seed
            assert float(got.elbo) == -INF
            continue
        assert got.status is Status.SUCCESS, seed
        assert got.log_evidence is None
        assert close(got.elbo, best), seed
        assert close(got.details["start"], best), seed
        states, actions, log_q = most_probable_trajectory(got)
        key = key_of(problem, states, actions)
        assert log_q == pytest.approx(0.0, abs=1e-12), seed  # q is that one trajectory
        assert close(scores[key], best), seed
        if not any(problem.terminal):  # where action 0 need not exist
            assert float(got.log_prob(states[None], actions[None])) > -20, seed
        holds_no_nan(got)
        for t in range(problem.horizon + 1):
            row = [*got.state_marginals[t].tolist(), float(got.absorbed[t])]
            want = [float(s == key[0][t]) for s in range(problem.num_states + 1)]
            assert row == pytest.approx(want, abs=1e-12), (seed, t)


@over_seeds(range(80), quick=20)
def test_what_the_trajectory_costs_and_earns(seeds):
    """Luck is -log p of start and successors, the divergence -log of the prior, the return the outcomes' mean given."""
    for seed in seeds:
        problem = random_problem(seed + 200)
        got = MaxProduct().run(problem.model)
        if not got.status.ok:
            continue
        states, actions = key_of(problem, *most_probable_trajectory(got)[:2])
        luck, divergence, returns = -math.log(problem.initial[states[0]]), 0.0, 0.0
        for t, action in enumerate(actions):
            if action is None:
                continue
            divergence -= math.log(problem.prior[states[t]][action])
            taken = []
            for p, following, rewards in problem.outcomes[states[t]][action]:
                chance = p * (problem.discount if states[t + 1] < problem.num_states else 1 - problem.discount)
                if chance > 0 and states[t + 1] in (following, problem.num_states):
                    taken.append((chance, rewards[t]))
            scores = [math.log(p) + r / problem.temperature for p, r in taken]
            shares = [math.exp(score - log_sum(scores)) for score in scores]
            for (p, reward), share in zip(taken, shares, strict=True):
                if share > 0:
                    luck += share * math.log(share / p)
                    returns += share * reward
        assert close(got.luck, luck), seed
        assert close(got.policy_divergence, divergence), seed
        assert close(got.believed_return, returns), seed
        assert float(got.policy_entropy) == 0.0


@over_seeds(range(60), quick=15)
def test_values_are_those_of_the_best_trajectory_from_each_state_on(seeds):
    for seed in seeds:
        problem = random_problem(seed + 300)
        got = MaxProduct().run(problem.model)
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                scores = every(problem, state, t)
                best = max(scores.values())
                assert close(got.values[t, state] / problem.temperature, best), (seed, t, state)
                row = got.action_probs[t, state].tolist()
                if best == -INF or problem.terminal[state]:
                    assert row == pytest.approx(problem.prior[state], abs=1e-12)
                    continue
                by_action = defaultdict(lambda: -INF)
                for (_, actions), score in scores.items():
                    by_action[actions[t]] = max(by_action[actions[t]], score)
                assert sorted(row) == [0.0] * (problem.num_actions - 1) + [1.0]
                assert close(by_action[row.index(1.0)], best), (seed, t, state)  # the closed loop plans anew


@pytest.mark.parametrize("backend", ["exact", "optimistic"])
@over_seeds(range(80), quick=20)
def test_viterbi_on_the_posterior_finds_the_same_probability(backend, seeds):
    """The mode of p(tau | O) is that of p(tau, O)."""
    for seed in seeds:
        problem = random_problem(seed + 400)
        posterior = cai.infer(problem.model, backend, throw=False)
        if not posterior.status.ok:
            continue
        scores = all_trajectories(problem)
        states, actions, log_q = most_probable_trajectory(posterior)
        assert close(log_q + float(posterior.log_evidence), max(scores.values())), seed
        assert close(scores[key_of(problem, states, actions)], max(scores.values())), seed
        if problem.discount == 1 and not any(problem.terminal):  # else what is done at the end counts there
            assert close(posterior.log_prob(states[None], actions[None])[0], log_q), seed


@over_seeds(range(40), quick=10)
def test_viterbi_on_the_best_of_fixed_policies(seeds):
    """q = p(s_1) pi p(s'|s,a): its mode by all trajectories."""
    for seed in seeds:
        problem = random_problem(seed + 500, discount=1.0, terminals=0.0)
        posterior = cai.infer(problem.model, "variational", throw=False)
        if not posterior.status.ok:
            continue
        best = -INF
        for state, chance in enumerate(problem.initial):
            found = defaultdict(float)
            for steps, _, _ in paths(problem, state, 0) if chance > 0 else ():
                q = chance
                for t, (here, action, _, k) in enumerate(steps):
                    q *= float(posterior.action_probs[t, here, action]) * problem.outcomes[here][action][k][0]
                found[follow(problem, state, steps)] += q
            best = max(best, *(math.log(q) for q in found.values() if q > 0), -INF)
        assert close(most_probable_trajectory(posterior)[2], best), seed


# ---- by hand -----------------------------------------------------------------------------------------------------


def two_ways(short, long, later=0.0, horizon=2):
    """From state 0 to state 1 (half, paying `short`) or by two outcomes to state 2 (a quarter each, paying `long`)."""
    mdp = MDP.from_successors(
        [[[1, 2, 2]], [[1, 1, 1]], [[2, 2, 2]]],
        [[[0.5, 0.25, 0.25]], [[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]],
        [1.0, 0.0, 0.0],
    )
    reward = torch.tensor([[[short, long, long]], [[0.0] * 3], [[later] * 3]], dtype=torch.float64)
    return TrajectoryModel(mdp, OutcomeReward(reward), horizon=horizon)


def test_outcomes_that_share_a_next_state_count_together():
    """A quarter twice is a half: equal to the other way, and a little reward decides."""
    for extra, want in ((1e-6, 2), (-1e-6, 1)):
        got = MaxProduct().run(two_ways(0.0, extra))
        states, actions, _ = most_probable_trajectory(got)
        assert states.tolist() == [0, want, want]
        assert actions.tolist() == [0, 0]
        assert float(got.luck) == pytest.approx(math.log(2), abs=1e-12)
        assert float(got.elbo) == pytest.approx(math.log(0.5) + max(extra, 0.0), abs=1e-12)
        assert float(got.believed_return) == pytest.approx(max(extra, 0.0), abs=1e-15)


def test_shares_of_outcomes_are_those_of_their_weight():
    mdp = MDP.from_successors([[[0, 0, 0]]], [[[0.25, 0.75, 0.0]]], [1.0])
    model = TrajectoryModel(
        mdp, OutcomeReward(torch.tensor([[[math.log(6), 0.0, 50.0]]], dtype=torch.float64)), horizon=1
    )
    got = MaxProduct().run(model)
    assert float(got.elbo) == pytest.approx(math.log(0.25 * 6 + 0.75), abs=1e-12)
    assert float(got.believed_return) == pytest.approx(2 / 3 * math.log(6), abs=1e-12)


@pytest.mark.parametrize("debt", [10.0, 700.0, 800.0, 1e4])
def test_a_debt_beside_a_better_outcome_may_still_pay(debt):
    """Listed outcomes are added up group by group; a group e^-800 below another still counts."""
    # Once: every group of a row is shifted by the row's total, and its sum underflows to 0.
    got = MaxProduct().run(two_ways(0.0, -debt, later=3 * debt))
    assert float(got.elbo) == pytest.approx(math.log(0.5) + 2 * debt, rel=1e-12)
    assert most_probable_trajectory(got)[0].tolist() == [0, 2, 2]


def test_a_debt_beside_what_is_forbidden():
    # Once: the one way that is left underflows, and optimality seems impossible.
    model = two_ways(0.0, -1000.0)
    reward = model.reward.table.clone()
    reward[1] = -INF
    model = model.replace(reward=OutcomeReward(reward))
    assert float(SumProduct().run(model).log_evidence) == pytest.approx(math.log(0.5) - 1000, rel=1e-12)
    got = MaxProduct().run(model)
    assert got.status is Status.SUCCESS
    assert float(got.elbo) == pytest.approx(math.log(0.5) - 1000, rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_viterbi_is_not_drawn_by_the_rounding_of_a_row(size):
    """Rewards that make a fall next to impossible, and so many ways that each has less than 1e-16."""
    # Once: the fall is what a row of the dynamics lacks to 1, which is rounding here; `outcomes` knows it.
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.full(40, 20.0), size=(40, 1))
    model = TrajectoryModel(MDP(chances, np.ones(40) / 40), 20 * size, horizon=15, discount=0.9)
    best = MaxProduct().run(model)
    posterior = cai.infer(model, "exact")
    states, actions, log_q = most_probable_trajectory(posterior)
    assert log_q + float(posterior.log_evidence) == pytest.approx(float(best.elbo), rel=1e-12)
    assert float(posterior.log_prob(states[None], actions[None])) == pytest.approx(log_q, rel=1e-9)


def test_of_equals_the_first_action_and_the_first_successor():
    mdp = MDP(np.full((3, 3, 3), 1 / 3), [0.0, 0.5, 0.5])
    model = TrajectoryModel(mdp, 0.0, horizon=3, action_prior=[0.1, 0.45, 0.45])
    for posterior in (MaxProduct().run(model), cai.infer(model, "exact")):
        states, actions, _ = most_probable_trajectory(posterior)
        assert states.tolist() == [1, 0, 0, 0]
        assert actions.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("discount", "falls"), [(0.7, False), (0.4, True)])
def test_a_fall_may_be_the_most_probable_end(discount, falls):
    model = TrajectoryModel(MDP([[[1.0]]], [1.0]), 0.0, horizon=2, discount=discount)
    got = MaxProduct().run(model)
    states, actions, _ = most_probable_trajectory(got)
    assert states.tolist() == ([0, 1, 1] if falls else [0, 0, 0])
    assert actions.tolist() == [0, 0]
    assert float(got.elbo) == pytest.approx(math.log(1 - discount) if falls else 2 * math.log(discount), abs=1e-12)
    assert got.absorbed.tolist() == pytest.approx([0.0, 1.0, 1.0] if falls else [0.0] * 3, abs=1e-12)


@pytest.mark.parametrize("optimality", ["factor", "bernoulli"])
def test_the_bound_counts_what_optimality_subtracts(optimality):
    model = TrajectoryModel(MDP([[[1.0], [1.0]]], [1.0]), [[1.0, 3.0]], horizon=4, optimality=optimality)
    got = MaxProduct().run(model)
    top = 12 if optimality == "factor" else 0
    assert float(got.elbo) == pytest.approx(top - 4 * math.log(2), abs=1e-12)
    assert float(got.elbo) <= float(cai.infer(model, "exact").log_evidence)


# ---- plans -------------------------------------------------------------------------------------------------------


@over_seeds(range(25), quick=8)
def test_a_plan_plays_the_actions_of_the_trajectory_whatever_happens(seeds):
    for seed in seeds:
        problem = random_problem(seed + 600)
        mdp = problem.model.mdp
        for backend in ("max-product", "exact", "variational"):
            posterior = cai.infer(problem.model, backend, throw=False)
            if not posterior.status.ok:
                continue
            states, actions, _ = most_probable_trajectory(posterior)
            plan, greedy = cai.extract_policy(posterior, "plan"), cai.extract_policy(posterior, "greedy")
            assert plan.metadata["kind"] == "plan"
            ended = False
            for t, (state, action) in enumerate(zip(states.tolist()[:-1], actions.tolist(), strict=True)):
                ended = ended or state == problem.num_states or problem.terminal[state]
                for other in range(problem.num_states):
                    if ended or not bool(mdp.available[other, action]):
                        assert plan.greedy(other, t) == greedy.greedy(other, t), (seed, t, other)
                    else:
                        assert plan.greedy(other, t) == action, (seed, t, other)
            assert ((plan.action_probs == 0) | (plan.action_probs == 1)).all()
            assert (plan.action_probs * ~mdp.available == 0).all()
            cai.evaluate(plan, problem.model, num_rollouts=2)


@pytest.mark.parametrize("backend", ["max-product", "value-iteration"])
def test_an_open_loop_reaches_what_it_plans_in_a_deterministic_world(backend):
    reached = 0
    for seed in range(40):
        model = random_problem(seed + 700, deterministic=True, discount=1.0).model
        posterior = cai.infer(model, backend, throw=False)
        if not posterior.status.ok:
            continue
        reached += 1
        for kind in ("plan", "greedy") if backend == "max-product" else ("plan",):
            outcome = cai.evaluate(cai.extract_policy(posterior, kind), model, num_rollouts=2)
            assert outcome.expected_return == pytest.approx(float(posterior.believed_return), abs=1e-9), (seed, kind)
            assert torch.allclose(outcome.occupancy[: model.steps], posterior.state_marginals[:-1]), seed
    assert reached > 25


def test_an_open_loop_is_worse_than_a_closed_one_where_the_world_slips():
    """Two doors, of which the first needs action 0 and the second action 1; each sticks with 0.3. By hand."""
    moves = np.zeros((3, 2, 3))
    moves[0, 0] = [0.3, 0.7, 0.0]
    moves[0, 1, 0] = moves[1, 0, 1] = 1
    moves[1, 1] = [0.0, 0.3, 0.7]
    moves[2, :, 2] = 1
    reward = [[-1.0, -5.0], [-5.0, -1.0], [0.0, 0.0]]
    model = TrajectoryModel(MDP(moves, [1.0, 0.0, 0.0], terminal=[2]), reward, horizon=3)
    posterior = cai.infer(model, "max-product")
    assert float(posterior.believed_return) == -2.0
    assert float(posterior.luck) == pytest.approx(-2 * math.log(0.7), abs=1e-12)
    still = 1 - 0.7**2  # not through both after two steps
    wanted = {"stochastic": -2 - still, "greedy": -2 - still, "plan": -1 - 0.7 - 0.3 * 5 - still}
    for kind, want in wanted.items():
        policy = cai.extract_policy(posterior, kind)
        assert cai.evaluate(policy, model, num_rollouts=2).expected_return == pytest.approx(want, abs=1e-12), kind


def goal_first():
    """Deterministic: state 0 goes on to 1, which ends; after the end nothing is planned."""
    moves = np.zeros((3, 2, 3))
    moves[0, 0, 0] = moves[0, 1, 1] = moves[1, 0, 0] = moves[1, 1, 2] = moves[2, :, 2] = 1
    available = [[True, True], [True, True], [True, True]]
    mdp = MDP(moves, [1.0, 0.0, 0.0], terminal=[2], available=available, action_names=["back", "on"])
    return TrajectoryModel(mdp, [[-1.0, -2.0], [-1.0, 5.0], [0.0, 0.0]], horizon=5)


def test_a_plan_ends_with_its_trajectory():
    posterior = cai.infer(goal_first(), "max-product")
    states, actions, _ = most_probable_trajectory(posterior)
    assert states.tolist() == [0, 1, 2, 2, 2, 2]
    assert actions.tolist() == [1, 1, 0, 0, 0]
    plan = cai.extract_policy(posterior, "plan")
    # Once it has ended, greedily: at the last step, where nothing follows, going back is cheaper.
    assert [plan.greedy(0, t) for t in range(5)] == [1, 1, 1, 1, 0]
    assert plan.action_names == ("back", "on")


def test_a_plan_where_its_action_is_missing():
    """State 2 lacks the planned action, and acts greedily."""
    mdp = MDP(np.full((3, 2, 3), 1 / 3), [1.0, 0.0, 0.0], available=[[True, True], [True, True], [True, False]])
    model = TrajectoryModel(mdp, [[0.0, 4.0], [0.0, 4.0], [0.0, 0.0]], horizon=2)
    plan = cai.extract_policy(cai.infer(model, "max-product"), "plan")
    assert [[plan.greedy(s, t) for s in range(3)] for t in range(2)] == [[1, 1, 0]] * 2


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_plan_in_a_large_sparse_world_stays_sparse(monkeypatch, discount):
    """A ring of 4,000 states with two ways round: [S, A, S] would be 256 MB a step."""
    # Once: Viterbi's recursion asks for `posterior.dynamics(t)`; 21 s and 1.9 GB for ten steps. `sample` and
    # `log_prob` go by the listed outcomes.
    size, goal = 4_000, 5
    here = np.arange(size)
    following = np.stack([(here + 1) % size, (here - 1) % size], 1)[..., None]
    mdp = MDP.from_successors(following, np.ones((size, 2, 1)), np.eye(1, size)[0])
    model = TrajectoryModel(mdp, 10.0 * torch.eye(1, size, dtype=torch.float64).roll(goal)[0], 6, discount=discount)

    def dense(*_):
        pytest.fail("a table [S, A, S] was built")

    monkeypatch.setattr(MDP, "to_next_states", dense)
    monkeypatch.setattr(MDP, "dense", dense)
    for name in ("max-product", "exact"):
        posterior = cai.infer(model, name)
        assert most_probable_trajectory(posterior)[0].tolist() == [*range(goal + 1), goal + 1]
        assert cai.extract_policy(posterior, "plan").action_probs[:, 0, 0].tolist()[:goal] == [1.0] * goal


# ---- programs ----------------------------------------------------------------------------------------------------

DOORS = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)  # by action, the next state


def doors(last=True):
    """A raw program: action 1 leads to state 1 with 0.8, where the last step pays 3 nats."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.6, 0.4], dtype=torch.float64)))
        for t in pyro.markov(range(1, 3)):
            action = pyro.sample(f"a_{t}", dist.Categorical(HALF))
            pyro.factor(f"O_{t}", 3.0 * (state == 1).double() * (t == 2) - 0.5 * action)
            if last or t < 2:
                state = pyro.sample(f"s_{t + 1}", dist.Categorical(DOORS[action]))

    return program


def best_of_doors(last):
    """By hand: all of s_1, a_1, s_2, a_2 (and s_3)."""
    found = {}
    for first, chance in enumerate((0.6, 0.4)):
        for a in range(2):
            for second in range(2):
                for b in range(2):
                    score = math.log(chance / 4) + math.log(DOORS[a, second]) - 0.5 * (a + b) + 3.0 * second
                    for third in range(2) if last else (None,):
                        more = 0.0 if third is None else math.log(DOORS[b, third])
                        states = (first, second) if third is None else (first, second, third)
                        found[states, (a, b)] = score + more
    return found


@pytest.mark.parametrize("backend", ["enumeration", "optimistic"])
@pytest.mark.parametrize("last", [True, False])
def test_the_answer_of_a_program_can_be_planned(backend, last):
    # Once: dynamics(T - 1) is [S, A, 1] there, and tensors of 2 and 3 are added.
    posterior = cai.infer(doors(last), backend)
    states, actions, log_q = most_probable_trajectory(posterior)
    found = best_of_doors(last)
    (want, moves), score = max(found.items(), key=lambda item: item[1])
    assert actions.tolist() == list(moves)
    assert states.tolist()[: len(want)] == list(want)
    evidence = log_sum(list(found.values()))
    assert log_q == pytest.approx(score - evidence, abs=1e-6 if backend == "optimistic" else 1e-9)
    plan = cai.extract_policy(posterior, "plan")
    assert plan.horizon == 2
    assert [[plan.greedy(s, t) for s in range(2)] for t in range(2)] == [[a] * 2 for a in moves]


@over_seeds(range(25), quick=8)
def test_enumeration_of_a_model_has_the_same_mode(seeds):
    for seed in seeds:
        problem = random_problem(seed + 800)
        posterior = cai.infer(problem.model, "enumeration", throw=False)
        if posterior.status.ok:
            want = most_probable_trajectory(cai.infer(problem.model, "exact"))[2]
            assert most_probable_trajectory(posterior)[2] == pytest.approx(want, abs=1e-9), seed


# ---- the door ----------------------------------------------------------------------------------------------------


def test_impossible_optimality():
    model = TrajectoryModel(MDP([[[1.0], [1.0]]], [1.0]), -INF, horizon=3, action_prior=[0.2, 0.8])
    with pytest.raises(InferenceError, match=r"'max-product'.*p\(O\) = 0.*look at the -inf rewards"):
        cai.infer(model, "max-product")
    got = cai.infer(model, "max-product", throw=False)
    assert got.status is Status.IMPOSSIBLE
    assert float(got.elbo) == -INF
    assert got.action_probs[:, 0].tolist() == [[0.2, 0.8]] * 3
    holds_no_nan(got)
    check(lambda: cai.extract_policy(got, "plan"), ValueError, r"'max-product' holds no policy.*p\(O\) = 0")
    # Once: a trajectory of the prior is returned, with its log probability.
    check(lambda: most_probable_trajectory(got), ValueError, r"p\(O\) = 0")


@over_seeds(range(60), quick=15)
def test_what_is_unavoidable_is_only_bad_luck(seeds):
    """Kind outcomes are enough: the world is asked not to slip."""
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    model = TrajectoryModel(mdp, TableReward(torch.tensor([0.0, -INF]).double()), horizon=3)
    got = cai.infer(model, "max-product")
    assert float(got.elbo) == pytest.approx(3 * math.log(0.5), abs=1e-12)
    assert float(got.luck) == pytest.approx(3 * math.log(2), abs=1e-12)
    for seed in seeds:
        problem = random_problem(seed + 900)
        want = Status.IMPOSSIBLE if exact(problem).log_evidence == -INF else Status.SUCCESS
        assert MaxProduct().run(problem.model).status is want


def endless():
    return cai.infer(bridge(horizon=INF, discount=0.9), "variational")


REFUSED = {
    "endless": (
        lambda: cai.infer(bridge(horizon=INF), "max-product"),
        ValueError,
        r"'max-product' needs a finite horizon.*horizon=N, or use 'value-iteration' with successors='best'",
    ),
    "program": (lambda: cai.infer(doors(), "max-product"), ValueError, r"'max-product'.*Pyro program.*'enumeration'"),
    "endless mode": (lambda: most_probable_trajectory(endless()), ValueError, "infinite horizon has no end.*horizon=N"),
    "endless plan": (
        lambda: cai.extract_policy(endless(), "plan"),
        ValueError,
        "infinite horizon has no end; infer with horizon=N to plan ahead",
    ),
    "kind": (
        lambda: cai.extract_policy(cai.infer(bridge(), "exact"), "open"),
        ValueError,
        "kind is 'open'; expected one of 'stochastic', 'greedy', 'plan'",
    ),
    "no posterior": (lambda: cai.extract_policy("exact", "plan"), TypeError, "expected the posterior that cai.infer"),
}


@pytest.mark.parametrize(("build", "error", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(build, error, pattern):
    check(build, error, pattern)

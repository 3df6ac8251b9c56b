"""What a restricted guide does about rewards of -inf, interruptions, programs, and options that make no sense."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracle import random_problem
from refusals import check, holds_no_nan, refuse
from restricted_cases import CLASSES, aliased, answer, best, corridor
from torch import nn

import cai
from cai.inference import Status
from cai.inference.restricted.classes import ModulePolicy, ObservationPolicy, StationaryPolicy, TabularPolicy
from cai.inference.restricted.objective import TableBound
from cai.inference.restricted.restricted import RestrictedVariational
from cai.models import MDP, TrajectoryModel, bridge

# ---- rewards of -inf ---------------------------------------------------------------------------------------------


OBSERVED = {
    "all alike": [[1, 0]] * 3,
    "two alike": [[1, 0], [1, 0], [0, 1]],
    "two others": [[1, 0], [0, 1], [1, 0]],
    "one in doubt": [[1, 0], [0.5, 0.5], [0, 1]],
}


FEW = (*range(100, 140), 143, 166, 194, 197)  # the last ones are of the rarest kind


@pytest.mark.parametrize("seeds", [FEW, pytest.param(range(100, 200), marks=pytest.mark.campaign)], ids=["few", "all"])
@pytest.mark.parametrize("observed", OBSERVED)
@pytest.mark.parametrize("stationary", [True, False])
def test_an_answer_keeps_clear_of_minus_infinity_and_a_refusal_has_a_reason(observed, stationary, seeds):
    """Against every set of actions that the rows may have: where none keeps clear, no answer says so.

    Where one does, the answer has found it, or says that states which share a row need different actions.
    """
    seen = set()
    chances = OBSERVED[observed]
    for seed in seeds:
        problem = random_problem(seed, reward="sa", horizon=2, terminals=0.0, discount=1.0)
        table = problem.model.reward.table.clone()
        if table.shape not in {(3, 2), (3, 3)}:
            continue
        table[torch.rand(table.shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = -math.inf
        model = problem.model.replace(reward=table)
        num_actions = table.shape[1]
        sets = [c for n in range(1, num_actions + 1) for c in itertools.combinations(range(num_actions), n)]
        rows = 1 if observed == "all alike" else 2
        possible = any(
            not runs_into_infinity(problem, table, choice, chances, stationary)
            for choice in itertools.product(sets, repeat=rows * (1 if stationary else 2))
        )
        got, free = RestrictedVariational(ObservationPolicy(chances, stationary)).run(model), best(model)
        found = math.isfinite(float(got.elbo))
        assert possible or not found, (seed, got.status)
        if not found:
            assert got.status is (Status.IMPOSSIBLE if free.status is Status.IMPOSSIBLE else Status.UNAVOIDABLE)
            assert not possible or "states that share a row" in got.details["why"]
        holds_no_nan(got)
        seen.add((found, possible, free.status.ok))
    assert {(True, True, True), (False, False, False), (False, False, True)} <= seen


def runs_into_infinity(problem, table, choice, chances, stationary):
    here = {s for s, p in enumerate(problem.initial) if p > 0}
    rows = len(choice) if stationary else len(choice) // 2
    for t in range(2):
        following = set()
        for state in here:
            for shown in [z for z in range(2) if chances[state][z] > 0]:
                wanted = choice[shown + (0 if stationary else t * rows)]
                taken = [a for a in wanted if problem.prior[state][a] > 0]
                if not taken or any(table[state, a] == -math.inf for a in taken):
                    return True
                following |= {n for a in taken for p, n, _ in problem.outcomes[state][a] if p > 0}
        here = following
    return False


def test_what_is_not_struck_stays():
    """Action 0 kills in state 1 only, and state 1 looks like state 0: the row loses it, and no other row does."""
    mdp = MDP(np.full((3, 2, 3), 1 / 3), [1.0, 0.0, 0.0])
    reward = torch.tensor([[0.0, 0.0], [-math.inf, 0.0], [0.0, 0.0]])
    got = answer(ObservationPolicy([0, 0, 1]), TrajectoryModel(mdp, reward, 3))
    assert got.action_probs[0].tolist() == [[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]]
    got = answer(ObservationPolicy([0, 0, 1], stationary=False), TrajectoryModel(mdp, reward, 3))
    assert got.action_probs[0, 0].tolist() == [0.5, 0.5]  # at the first step the row is only shown in state 0
    assert got.action_probs[1, 0].tolist() == [0.0, 1.0]


def test_states_that_need_different_actions_and_share_a_row():
    """The safe action of rooms 1 and 2 differs: one who cannot tell them apart is told so, one who can is answered."""
    moves = np.zeros((4, 2, 4))
    moves[0, 0, 1] = moves[0, 1, 2] = moves[1, :, 3] = moves[2, :, 3] = moves[3, :, 3] = 1.0
    mdp = MDP(moves, [1.0, 0, 0, 0], terminal=[3])
    reward = torch.tensor([[0.0, 0.0], [-1.0, -math.inf], [-math.inf, -3.0], [0.0, 0.0]])
    model = TrajectoryModel(mdp, reward, 2)
    got = answer(ObservationPolicy([0, 1, 1, 0]), model)
    assert got.status is Status.UNAVOIDABLE
    assert best(model).status is Status.SUCCESS
    with pytest.raises(cai.inference.InferenceError, match=r"need different actions to avoid -inf.*finer observations"):
        cai.infer(model, "restricted", policy=ObservationPolicy([0, 1, 1, 0]))
    assert answer(ObservationPolicy([0, 1, 2, 0]), model).status is Status.SUCCESS


def test_a_discount_leaves_hope_where_nothing_else_does():
    """Every way leads to -inf, unless the chain falls first: p(O) > 0, and no policy can see to that."""
    mdp = MDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [1.0, 0.0])
    model = TrajectoryModel(mdp, [0.0, -math.inf], 3, discount=0.9)
    for question in (model, model.replace(horizon=math.inf)):
        assert best(question).status is answer(StationaryPolicy(), question).status is Status.UNAVOIDABLE
    assert answer(StationaryPolicy(), model.replace(discount=1.0)).status is Status.IMPOSSIBLE


def test_a_stationary_answer_is_stationary():
    """State 1 is never entered and its way out is deadly, but at the last step nothing happens any more."""
    moves = np.zeros((3, 2, 3))
    moves[0, :, 0] = moves[1, :, 2] = moves[2, :, 2] = 1.0
    reward = torch.tensor([[0.0, 1.0], [0.0, 1.0], [-math.inf, -math.inf]])
    got = answer(StationaryPolicy(), TrajectoryModel(MDP(moves, [1.0, 0.0, 0.0]), reward, 4))
    assert got.values[:, 1].isinf().tolist() == [True, True, True, False]
    assert torch.equal(got.action_probs, got.action_probs[:1].expand(4, -1, -1))


# ---- conduct -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(1, 5, 9, 12), pytest.param((2, 6, 10), marks=pytest.mark.campaign)])
@pytest.mark.parametrize("name", ["stationary", "aliased over time", "noisy", "module"])
def test_a_program_is_answered_as_its_model(name, seeds):
    for seed in seeds:
        model = random_problem(seed, discount=1.0, terminals=0.0).model
        torch.manual_seed(seed)
        policy = CLASSES[name](model)
        want, got = answer(policy, model), answer(policy, lambda model=model: model())
        assert got.status is want.status, seed
        if not want.status.ok:
            continue
        holds_no_nan(got)
        assert float(got.elbo) == pytest.approx(float(want.elbo), abs=1e-8), seed
        assert float(got.believed_return) == pytest.approx(float(want.believed_return) / model.temperature, abs=1e-5)
        assert float(got.policy_divergence) == pytest.approx(float(want.policy_divergence), abs=1e-5)
        assert torch.allclose(got.state_marginals, want.state_marginals, atol=1e-5), seed
        states, actions = got.sample(5)
        assert states.shape == (5, model.steps + 1)
        assert actions.shape == (5, model.steps)


def test_the_bound_differentiates_to_expected_visits():
    """The policy is at its optimum, so d elbo / d r(s, a) is how often (s, a) is taken, over alpha."""
    model = bridge(horizon=6, temperature=0.7)
    table = torch.zeros(22, 4, dtype=torch.float64, requires_grad=True)
    got = answer(
        StationaryPolicy(), model.replace(reward=model.reward + torch.where(model.nonterminal[:, None], table, 0.0))
    )
    (slope,) = torch.autograd.grad(got.elbo, table)
    counts = (got.state_marginals[:-1, :, None] * got.action_probs).sum(0) * model.nonterminal[:, None]
    assert torch.allclose(slope, counts.detach() / model.temperature, atol=1e-9)


def test_nothing_of_the_users_is_touched():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(23, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    got = answer(network, bridge(horizon=4), max_iterations=5, restarts=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert next(network.parameters()).dtype == torch.float32
    fitted = got.details["module"]
    assert fitted is not network
    features = torch.cat([torch.eye(22), torch.full((22, 1), 0.25)], -1).double()
    table = (fitted(features) + bridge().log_action_prior).softmax(-1)
    assert torch.allclose(table, got.action_probs[1], atol=1e-12)


def test_the_same_seed_gives_the_same_answer():
    model = bridge(horizon=5)
    runs = [RestrictedVariational(aliased(model), restarts=2).run(model, seed=seed) for seed in (7, 7, 8)]
    assert runs[0].details["starts"] == runs[1].details["starts"] != runs[2].details["starts"]
    assert torch.equal(runs[0].action_probs, runs[1].action_probs)


@pytest.mark.parametrize("name", ["stationary", "noisy"])
def test_a_fit_that_stops_early_says_so(name):
    model = bridge(horizon=8)
    got = answer(CLASSES[name](model), model, max_iterations=2)
    assert got.status is Status.NOT_CONVERGED
    assert got.details["steps"] == 2
    assert float(got.elbo) >= got.details["history"][-1] - 1e-9


@pytest.mark.parametrize("name", ["stationary", "noisy"])
def test_an_interrupted_fit_keeps_its_best(name, monkeypatch, caplog):
    calls, measure = [], TableBound.measure

    def interrupted(self, log_policy):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, log_policy)

    monkeypatch.setattr(TableBound, "measure", interrupted)
    model = bridge(horizon=8)
    got = answer(CLASSES[name](model), model)
    assert got.status is Status.NOT_CONVERGED
    assert "interrupted" in caplog.text
    assert float(got.elbo) == pytest.approx(max(got.details["history"]), abs=1e-9)
    assert len(got.details["history"]) > 1


def test_a_shorter_step_gets_there_too():
    model = bridge(horizon=6)
    got = answer(TabularPolicy(), model, learning_rate=0.5)
    assert got.status is Status.SUCCESS
    assert float(got.elbo) == pytest.approx(float(best(model).elbo), abs=1e-8)


def infinite(**options):
    return corridor(1.0).replace(**{"horizon": math.inf, "discount": 0.9, **options})


BAD = {
    "policy": (lambda: RestrictedVariational(3), TypeError, r"policy is 3.*StationaryPolicy\(\)"),
    "policy's name": (lambda: RestrictedVariational("tabullar"), r"did you mean 'tabular'\?.*known are stationary"),
    "policy's option": (lambda: RestrictedVariational("tabular(x=1)"), r"unexpected keyword argument 'x'.*none"),
    "class": (lambda: RestrictedVariational(TabularPolicy), TypeError, r"instance: TabularPolicy\(\.\.\.\)"),
    "module class": (lambda: ModulePolicy(nn.Linear), TypeError, r"expected a torch.nn.Module"),
    "frozen module": (lambda: ModulePolicy(nn.ReLU()), r"no parameters that require grad"),
    "module input": (
        lambda: answer(nn.Linear(3, 2), corridor(1.0)),
        r"failed on features of shape \[1, 4\].*F = S \+ 1",
    ),
    "module output": (lambda: answer(nn.Linear(4, 3), corridor(1.0)), r"shape \[1, 3\].*\[N, A\] = \[1, 2\]"),
    "features": (lambda: ModulePolicy(nn.Linear(3, 2), torch.zeros(3)), r"features has shape \[3\].*\[S, F\]"),
    "nan features": (lambda: ModulePolicy(nn.Linear(3, 2), [[math.nan]]), r"features holds.*not finite"),
    "features of another": (
        lambda: answer(ModulePolicy(nn.Linear(5, 2), torch.zeros(2, 5)), corridor(1.0)),
        r"features has shape \[2, 5\].*\[S, F\] = \[3, any\]",
    ),
    "feature function": (
        lambda: answer(ModulePolicy(nn.Linear(5, 2), lambda states, times: states), corridor(1.0)),
        r"features\(states, times\) returned shape \[1\].*\[N, F\]",
    ),
    "observations": (lambda: ObservationPolicy(3), r"observations has shape \[\].*\[S\].*\[S, Z\]"),
    "negative": (lambda: ObservationPolicy([0, -1]), r"observations holds -1.*from 0"),
    "fractions": (lambda: ObservationPolicy([0.5, 0.5]), TypeError, r"observations.*whole numbers"),
    "rows": (lambda: ObservationPolicy([[0.5, 0.2]]), r"observations\[0\] sums to 0.7"),
    "stationary": (lambda: ObservationPolicy([0, 0], stationary=1), TypeError, r"stationary is 1.*True or False"),
    "too few": (lambda: answer(ObservationPolicy([0, 0]), corridor(1.0)), r"observations has shape \[2\].*S = 3"),
    "gradient": (lambda: RestrictedVariational(gradient="exact"), "gradient is 'exact'.*closed, pathwise, sampled"),
    "baseline": (lambda: RestrictedVariational(baseline="mean"), r"baseline is 'mean'.*leave-one-out, none"),
    "steps": (lambda: RestrictedVariational(max_iterations=0), r"max_iterations is 0.*>= 1"),
    "samples": (lambda: RestrictedVariational(num_samples=2.5), r"num_samples is 2.5.*whole number"),
    "one sample": (lambda: RestrictedVariational(gradient="sampled", num_samples=1), r"num_samples is 1.*at least 2"),
    "rate": (lambda: RestrictedVariational(learning_rate=2.0), r"learning_rate is 2.*at most 1"),
    "nan rate": (lambda: RestrictedVariational(gradient="sampled", learning_rate=math.nan), r"learning_rate is nan"),
    "tolerance": (lambda: RestrictedVariational(tolerance=0.0), r"tolerance is 0.*> 0"),
    "restarts": (lambda: RestrictedVariational(gradient="sampled", restarts=1), r"restarts is 1.*'enumerated'"),
    "infinite tables": (
        lambda: answer(TabularPolicy(), infinite()),
        r"infinite and TabularPolicy.*StationaryPolicy\(\)",
    ),
    "no discount": (lambda: answer(StationaryPolicy(), infinite(discount=1.0)), r"discount < 1.*'variational'"),
    "infinite samples": (
        lambda: answer(StationaryPolicy(), infinite(), gradient="sampled"),
        r"to their end.*gradient='enumerated'",
    ),
    "no program": (lambda: RestrictedVariational().supports(3), TypeError, r"Pyro program"),
}


@refuse(BAD)
def test_bad_options(build, error, pattern):
    check(build, error, pattern)

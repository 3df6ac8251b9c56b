"""Models on another device and in float32: the same problem, computed where and how it was asked for."""

import math

import numpy as np
import pyro
import pytest
import torch
from elsewhere import DEVICE, Elsewhere, MixedDevices, elsewhere
from pyro import poutine

from cai.models import (
    MDP,
    CallableReward,
    DistancePenalty,
    Goal,
    LinearReward,
    LogBarrier,
    ModuleReward,
    OutcomeReward,
    StepCost,
    TableReward,
    TimeTableReward,
    TrajectoryModel,
    VisitationPenalty,
    Waypoint,
    bridge,
    condition,
    do,
    inspect_program,
    road_network,
)
from cai.models.common import numerics
from cai.models.rewards.tables import Step, evaluate_factor
from cai.models.trajectory.optimality import Optimality

S, A, K = 5, 3, 2
SINGLE = 1e-6  # relative rounding of float32 is 6e-8; a handful of operations


def process(*, dense=False, terminal=True, requires_grad=False):
    """Random outcomes; the last state absorbs, and action 0 does not exist in state 1."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(S, A, S if dense else K, generator=generator, dtype=torch.float64) + 0.1
    following = torch.randint(S, (S, A, K), generator=generator)
    following[0, 0] = 2  # two outcomes of (0, 0) share their next state
    weights[2, 1, 1] = 0.0
    if terminal:
        following[-1] = S - 1
        if dense:
            weights[-1] = 0.0
            weights[-1, :, -1] = 1.0
    weights = (weights / weights.sum(-1, keepdim=True)).requires_grad_(requires_grad)
    initial = torch.tensor([0.3, 0.3, 0.2, 0.2, 0.0], dtype=torch.float64).requires_grad_(requires_grad)
    available = torch.ones(S, A, dtype=torch.bool)
    available[1, 0] = False
    options = {"available": available, "terminal": [S - 1] if terminal else None, "regions": {"pair": [0, 1]}}
    if dense:
        return MDP(weights, initial, **options)
    return MDP.from_successors(following, weights, initial, **options)


def rewards(mdp):
    """One of each kind, each 0 in the last state."""
    generator = torch.Generator().manual_seed(4)
    table = torch.randn(S, A, generator=generator, dtype=torch.float64)
    table[2, 2] = -math.inf
    table[-1] = 0.0
    outcomes = torch.randn(S, A, mdp.num_outcomes, generator=generator, dtype=torch.float64)
    outcomes[-1] = 0.0
    features = torch.randn(S, A, 4, generator=generator, dtype=torch.float64)
    features[-1] = 0.0
    return {
        "table": TableReward(table),
        "outcomes": OutcomeReward(outcomes),
        "goal": Goal([S - 1], 2.0) + StepCost(0.1),
        "linear": LinearReward(features, torch.ones(4, dtype=torch.float64)).at(states="pair"),
        "times": TableReward(table).at(times=[1]) * 0.5,
        "over time": TimeTableReward(torch.stack([outcomes[..., 0] * t for t in range(20)])),
        "masks": (TableReward(table).at(actions=[1], next_states="pair") + Waypoint([1], 1)).scheduled(
            lambda t: t + 0.5
        ),
        "module": ModuleReward(torch.nn.Linear(4, 1, bias=False).double(), features),
        "penalties": DistancePenalty([S - 1], 0.3, torch.arange(float(S)))
        + VisitationPenalty(torch.arange(float(S)) / 7)
        + LogBarrier(torch.arange(1.0, S + 1)),
        "function": CallableReward(lambda s, a, n, t: torch.where(s == S - 1, 0.0, -0.1 * (s + a + n) - t)),
    }


KINDS = ["table", "outcomes", "goal", "linear", "times", "over time", "masks", "module", "penalties", "function"]


def tables(model):
    """Everything that backends read."""
    mdp = model.mdp
    weights = mdp.probabilities * (1 + torch.arange(mdp.num_outcomes, device=mdp.device))
    found = {
        "initial": mdp.initial,
        "gather": mdp.gather(mdp.initial) * torch.ones_like(mdp.probabilities),
        "scatter": mdp.scatter(weights),
        "dense": mdp.dense(),
        "prior": model.action_prior,
        "log prior": model.log_action_prior,
        "continuation_probability": model.continuation_probability,
    }
    return found | {f"reward {t}": model.reward_table(t) for t in range(2)}


def assert_same(moved, original, tolerance):
    there = tables(moved)
    for name, value in tables(original).items():
        found = there[name]
        assert found.dtype == moved.dtype, name
        assert found.device == moved.device, name
        torch.testing.assert_close(found.cpu().double(), value, rtol=tolerance, atol=tolerance, msg=name)


# ---- to ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "listed"])
def test_float32_tables_are_the_float64_tables_rounded(kind, dense):
    mdp = process(dense=dense)
    model = TrajectoryModel(mdp, rewards(mdp)[kind], horizon=2, discount=0.9)
    assert_same(model.to(dtype=torch.float32), model, SINGLE)
    assert model.to(dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "listed"])
def test_tables_elsewhere_are_the_tables_here(kind, dense, dtype):
    mdp = process(dense=dense)
    model = TrajectoryModel(mdp, rewards(mdp)[kind], horizon=2, discount=0.9)
    with elsewhere() as device:
        moved = model.to(device, dtype)
        assert (moved.device, moved.dtype) == (device, dtype)
        assert_same(moved, model, 0.0 if dtype == torch.float64 else SINGLE)
        for mask in (
            moved.nonterminal,
            moved.mdp.available,
            moved.mdp.terminal,
            moved.mdp.states("pair"),
            moved.mdp.states(3),
        ):
            assert isinstance(mask, Elsewhere)
            assert mask.dtype == torch.bool


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "listed"])
def test_a_model_of_a_moved_process_is_the_moved_model(dense):
    mdp = process(dense=dense)
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    reward = rewards(mdp)["goal"]
    moved = TrajectoryModel(mdp.to(dtype=torch.float32), reward, 3, 0.5, 0.9, prior, optimality="bernoulli", name="x")
    model = TrajectoryModel(mdp, reward, 3, 0.5, 0.9, prior, optimality="bernoulli", name="x")
    assert_same(moved, model, SINGLE)
    for name in ("horizon", "temperature", "discount", "optimality", "name", "r_max", "evidence_offset", "steps"):
        assert getattr(moved, name) == getattr(model, name), name
    assert moved.has_outcome_sites == model.has_outcome_sites
    assert 2 * moved.dense_bytes == model.dense_bytes


def test_there_and_back_is_the_original():
    model = bridge()
    single = model.to(dtype=torch.float32)
    assert single.to(dtype=torch.float64) is model
    assert single.mdp.to(dtype=torch.float64) is model.mdp
    assert model.to() is model
    assert model.to("cpu", torch.float64) is model
    assert single.to(dtype=torch.float32) is single
    assert single.host is model
    assert single.mdp.host is model.mdp
    with elsewhere() as device:
        # From single precision here to double precision there nothing is lost.
        there = single.to(device, torch.float64)
        assert torch.equal(there.mdp.probabilities.cpu(), model.mdp.probabilities)
        assert torch.equal(there.action_prior.cpu(), model.action_prior)
        assert there.to("cpu") is model


def test_a_moved_process_keeps_its_names_and_kind():
    model = bridge()
    moved = model.mdp.to(dtype=torch.float32)
    assert moved.state_names == model.mdp.state_names
    assert moved.layout is model.mdp.layout
    assert repr(moved) == repr(model.mdp)
    assert moved.transitions is None
    dense = process(dense=True).to(dtype=torch.float32)
    assert dense.transitions is dense.probabilities
    assert dense.is_dense


def test_replace_keeps_device_and_dtype():
    mdp = process()
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    model = TrajectoryModel(mdp, rewards(mdp)["goal"], horizon=2, action_prior=prior)
    with elsewhere() as device:
        moved = model.to(device, torch.float32).replace(temperature=2.0)
        assert (moved.device, moved.dtype) == (device, torch.float32)
        # The prior of the original is taken, not its rounding.
        assert torch.equal(moved.host.action_prior, model.action_prior)
        assert_same(moved, model.replace(temperature=2.0), SINGLE)
        uniform = model.replace(action_prior=None).to(device)
        assert_same(uniform.entropy_form(), uniform.host.entropy_form(), 0.0)


def test_zeros_and_forbidden_rewards_stay_in_float32():
    mdp = process()
    model = TrajectoryModel(mdp, rewards(mdp)["table"], horizon=2)
    moved = model.to(dtype=torch.float32)
    assert torch.equal(moved.mdp.probabilities == 0, mdp.probabilities == 0)
    assert torch.equal(moved.reward_table(0).isinf(), model.reward_table(0).isinf())
    assert (model.reward_table(0) == -math.inf).any()


def test_arguments_from_elsewhere_are_checked_here():
    mdp = process()
    with elsewhere() as device:
        there = MDP.from_successors(
            mdp.next_states.to(device),
            mdp.probabilities.to(device),
            mdp.initial.to(device),
            available=mdp.available.to(device),
            terminal=mdp.terminal.to(device),
        )
        assert there.device == torch.device("cpu")
        assert torch.equal(there.probabilities, mdp.probabilities)
        table = rewards(mdp)["table"].table
        model = TrajectoryModel(
            there.to(device), table.to(device), horizon=2, action_prior=torch.ones(A).to(device) / A
        )
        assert torch.equal(model.reward_table(0).cpu(), TrajectoryModel(mdp, table, horizon=2).reward_table(0))


def test_gradients_pass_through_a_move():
    table = torch.zeros(S, A, dtype=torch.float64)
    table[:-1] = torch.randn(S - 1, A, dtype=torch.float64)
    found = []
    with elsewhere() as device:
        for place in (("cpu", torch.float64), (device, torch.float64), ("cpu", torch.float32)):
            mdp = process(requires_grad=True)
            reward = table.clone().requires_grad_()
            prior = torch.full((A,), 1 / A, dtype=torch.float64, requires_grad=True)
            model = TrajectoryModel(mdp, reward, horizon=2, action_prior=prior).to(*place)
            total = model.mdp.scatter(model.mdp.probabilities * model.reward_table(0) * model.action_prior[..., None])
            (total * model.mdp.initial).sum().backward()
            assert reward.grad.abs().sum() > 0
            assert torch.isfinite(prior.grad).all()
            found.append((reward.grad, prior.grad))
    for other, tolerance in ((found[1], 1e-15), (found[2], SINGLE)):
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance)


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [lambda *a, **k: bridge().to(*a, **k), lambda *a, **k: bridge().mdp.to(*a, **k)])
def test_bad_places(move):
    with pytest.raises(ValueError, match=r"dtype is torch.float16; expected torch.float64, or torch.float32"):
        move(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"dtype is torch.int64"):
        move(dtype=torch.int64)
    with pytest.raises(TypeError, match=r"dtype is 'float32'; expected torch\.float64"):
        move(dtype="float32")
    with pytest.raises(TypeError, match=r"write to\(dtype=torch.float32\)"):
        move(torch.float32)
    with pytest.raises(ValueError, match="cannot be made on device nowhere"):
        move("nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"cannot be made on device cuda.*'cpu' is always one"):
            move("cuda")


def test_rewards_that_float32_cannot_hold_are_refused():
    model = TrajectoryModel(process(terminal=False), -1e39, horizon=2)
    assert float(model.reward_table(0).min()) == -1e39
    with pytest.raises(ValueError, match=r"reward holds numbers beyond 3.4e\+38.*write -inf"):
        model.to(dtype=torch.float32).reward_table(0)


def test_a_bad_reward_of_a_moved_process_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"reward\[0, 0, 0\] is NaN"):
        TrajectoryModel(process().to(dtype=torch.float32), torch.full((S, A), math.nan), horizon=2)


# ---- rewards and programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_asked_here_about_steps_from_elsewhere(kind):
    mdp = process()
    factor = rewards(mdp)[kind]
    states, actions = torch.tensor([0, 2, 3]), torch.tensor([1, 1, 0])
    outcomes = torch.tensor([0, 0, 1])
    step = Step(states, actions, outcomes, mdp.next_states[states, actions, outcomes], 1)
    with elsewhere() as device:
        there = Step(*(index.to(device) for index in (step.state, step.action, step.outcome, step.next_state)), step.t)
        found = evaluate_factor(factor, mdp.to(device), there)
        assert found.device == device
        torch.testing.assert_close(found.cpu(), evaluate_factor(factor, mdp, step), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("discount", "optimality"),
    [
        (1.0, "bernoulli"),
        (0.9, "factor"),
        pytest.param(1.0, "factor", marks=pytest.mark.campaign),
        pytest.param(0.9, "bernoulli", marks=pytest.mark.campaign),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "listed"])
def test_the_program_runs_elsewhere_and_in_float32(kind, discount, optimality, dense):
    mdp = process(dense=dense)
    model = TrajectoryModel(mdp, rewards(mdp)[kind], horizon=3, discount=discount, optimality=optimality)
    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    with elsewhere() as device:
        for place in (("cpu", torch.float32), (device, torch.float64), (device, torch.float32)):
            moved = model.to(*place)
            poutine.trace(moved).get_trace().compute_log_prob()
            values = {
                name: node["value"].to(place[0])
                for name, node in trace.nodes.items()
                if node["type"] == "sample" and not node["is_observed"]
            }
            same = poutine.trace(poutine.condition(moved, data=values)).get_trace()
            same.compute_log_prob()
            tolerance = 1e-12 if place[1] == torch.float64 else 1e-5  # sums of up to 13 terms of about 1
            for name, node in trace.nodes.items():
                if node["type"] == "sample":
                    found = same.nodes[name]["log_prob"]
                    assert found.dtype == place[1], name
                    assert found.device == torch.device(place[0]), name
                    torch.testing.assert_close(
                        found.cpu().double(), node["log_prob"], rtol=tolerance, atol=tolerance, msg=name
                    )


@pytest.mark.parametrize(("reward", "temperature"), [(3.2, 0.9), (1.2, 1.9), (1.1, 2.8)])
def test_certain_success_is_no_more_than_certain_in_float32(reward, temperature):
    # These are rounded to a reward above r_max: without a bound the best reward would have log p(O = 1) > 0.
    assert torch.tensor([reward], dtype=torch.float32) / temperature - reward / temperature > 0
    model = TrajectoryModel(process(terminal=False), reward, 1, temperature, optimality="bernoulli")
    trace = poutine.trace(model.to(dtype=torch.float32)).get_trace()
    trace.compute_log_prob()
    assert float(trace.nodes["O_1"]["log_prob"]) == 0


def test_optimality_has_its_support_where_its_probability_is():
    with elsewhere() as device:
        probability = torch.tensor([-0.5, -math.inf], dtype=torch.float32, device=device)
        distribution = Optimality(probability)
        for expand in (True, False):
            support = distribution.enumerate_support(expand)
            assert (support.device, support.dtype) == (device, torch.float32)
        assert distribution.log_prob(distribution.enumerate_support()).exp().sum(0).tolist() == pytest.approx([1, 1])
        assert distribution.sample().device == device


def test_programs_are_inspected_and_revised_elsewhere():
    model = bridge(horizon=3)
    with elsewhere() as device:
        moved = model.to(device, torch.float32)
        assert inspect_program(moved) == inspect_program(model)
        for program in (do(moved, {0: "up"}), condition(moved, {1: "right"}), do(moved, {"s_2": 1})):
            trace = poutine.trace(program).get_trace()
            trace.compute_log_prob()
            for name, node in trace.nodes.items():
                if node["type"] == "sample":
                    assert node["log_prob"].device == device, name
                    assert not torch.isnan(node["log_prob"]).any()
        with pytest.raises(ValueError, match="no action is called 'fly'"):
            do(moved, {0: "fly"})


def test_nothing_global_is_touched_by_an_inspection():
    before = torch.random.get_rng_state()
    inspect_program(bridge(horizon=2).to(dtype=torch.float32))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not list(pyro.get_param_store().keys())


# ---- numerics ----------------------------------------------------------------------------------------------------

NUMERICS = {
    "safe_log": lambda p, x: numerics.safe_log(p),
    "safe_logsumexp": lambda p, x: numerics.safe_logsumexp(x),
    "weighted": lambda p, x: numerics.weighted(p, x),
    "expectation": lambda p, x: numerics.expectation(p, x),
    "tilted": lambda p, x: numerics.tilted_log_ratio(p, x, 0.7),
    "equivalent": lambda p, x: numerics.certainty_equivalent(p, x, 0.7),
    "averse": lambda p, x: numerics.certainty_equivalent(p, x, -0.7),
    "mean": lambda p, x: numerics.certainty_equivalent(p, x, 0.0),
    "best": lambda p, x: numerics.certainty_equivalent(p, x, math.inf),
    "worst": lambda p, x: numerics.certainty_equivalent(p, x, -math.inf),
    "divergence": lambda p, x: numerics.categorical_divergence(p.flip(0), p),
    "from ratio": lambda p, x: numerics.divergence_from_ratio(p, numerics.tilted_log_ratio(p, x, 0.7)),
}


@pytest.mark.parametrize("name", NUMERICS)
def test_numerics_follow_their_arguments(name):
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.25, 0.25, 0.5]], dtype=torch.float64)
    values = torch.tensor([[1.0, -2.0, -math.inf], [0.5, 1.5, -0.5], [-math.inf, 3.0, 2.0]], dtype=torch.float64)
    expected = NUMERICS[name](weights, values)
    with elsewhere() as device:
        for place in ((device, torch.float64), (device, torch.float32)):
            found = NUMERICS[name](weights.to(*place), values.to(*place))
            assert (found.device, found.dtype) == place
            tolerance = 1e-15 if place[1] == torch.float64 else SINGLE
            torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)


# ---- the second device itself ------------------------------------------------------------------------------------


def test_tensors_of_two_devices_do_not_mix():
    ones = torch.ones(3, dtype=torch.float64)
    with elsewhere() as device:
        there = ones.to(device)
        index = torch.tensor([0], device=device)
        mixes = [
            lambda: there + ones,
            lambda: ones.add_(there),
            lambda: torch.where(there > 0, there, ones),
            lambda: torch.cat([there, ones]),
            lambda: torch.stack([there.sum(), ones.sum()]),
            lambda: ones[index],
            lambda: there[torch.tensor([0])],
            lambda: there.index_add(0, torch.tensor([0]), there[:1]),
            lambda: torch.mul(there, there, out=torch.empty(3, dtype=torch.float64)),
        ]
        for mix in mixes:
            with pytest.raises(MixedDevices, match="live elsewhere"):
                mix()
        with pytest.raises(TypeError, match="no numpy"):
            there.numpy()
        with pytest.raises(TypeError, match="no array"):
            np.asarray(there)
        with pytest.raises(NotImplementedError, match="layout"):
            torch.eye(2).to_sparse().to(device)


def test_tensors_elsewhere_compute_what_tensors_here_do():
    numbers = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    with elsewhere() as device:
        there = numbers.to(device)
        assert (there.device, type(there)) == (DEVICE, Elsewhere)
        for made in (there.new_zeros(2), torch.ones(2, device=device), torch.tensor([1.0], device=there.device)):
            assert isinstance(made, Elsewhere)
        assert not isinstance(torch.zeros(2), Elsewhere)
        assert torch.equal((there * 2 + torch.tensor(1.0)).cpu(), numbers * 2 + 1)
        there[0].add_(1)  # a view, in place
        torch.mul(there, there, out=there)
        expected = torch.tensor([[1.0, 4.0, 9.0], [9.0, 16.0, 25.0]], dtype=torch.float64)
        assert torch.equal(there.cpu(), expected)
        assert there.tolist() == expected.tolist()
        assert torch.equal(torch.empty_like(numbers).copy_(there), expected)
        weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
        (there * weight.to(device)).sum().backward()
        assert torch.equal(weight.grad, expected.sum(0))


def test_road_networks_move_too():
    import networkx

    graph = networkx.DiGraph([(0, 1, {"length": 1.0}), (1, 0, {"length": 2.0}), (1, 2, {"length": 3.0})])
    with elsewhere() as device:
        mdp, reward = road_network(graph, 2)
        model = TrajectoryModel(mdp.to(device), reward, horizon=math.inf)
        assert model.reward_table(0)[..., 0].tolist() == [[-1.0, 0.0], [-2.0, -3.0], [0.0, 0.0]]

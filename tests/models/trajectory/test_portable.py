"""Models travel: pickles, new processes, deep copies and files give the same model back."""

import copy
import multiprocessing
import pickle

import pytest
import torch
from oracle import random_problem

from cai.models import (
    MDP,
    DistancePenalty,
    Goal,
    LinearReward,
    LogBarrier,
    TableReward,
    TimeTableReward,
    TrajectoryModel,
    VisitationPenalty,
    Waypoint,
    as_reward,
    bridge,
    kitchen_observations,
    shaped,
)
from cai.models.common.storage import load, save
from cai.models.rewards.tables import EvaluatedReward


def fields(model):
    """Every number of a model."""
    mdp = model.mdp
    tables = [model.reward_table(t) for t in model.reward_times]
    parts = [mdp.probabilities, mdp.initial, mdp.available, mdp.terminal, model.action_prior, *tables]
    parts += [] if mdp.next_states is None else [mdp.next_states]
    plain = (model.horizon, float(model.temperature), model.discount, model.optimality, model.name, model.dtype)
    return [part.detach() for part in parts], (*plain, mdp.state_names, mdp.action_names, mdp.layout, list(mdp.regions))


def same(model, other):
    tensors, plain = fields(model)
    found, found_plain = fields(other)
    assert plain == found_plain
    for one, two in zip(tensors, found, strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    assert model.steps == 1 or other.reward.reads_time == model.reward.reads_time
    assert type(other) is type(model)


def plain_toll(state, action, next_state, t):
    return torch.where(next_state == state, -1.0, 0.5 * t)


def rewards(process):
    """Rewards of every kind by name; all are gated to nonterminal states below."""
    size = process.num_states
    random = torch.Generator().manual_seed(5)
    return {
        "sum": Goal([3], 2.0) + Waypoint(states=[4], time=2, value=1.5).named("halfway"),
        "scaled": TableReward(torch.arange(size).double()) * 0.3 - 1.0,
        "restricted": TableReward(torch.ones(size)).at(times=[0, 2], next_states=[1, 5]),
        "scheduled": Goal([3]).scheduled([1.0, 2.0, 3.0, 4.0]),
        "scheduled by code": Goal([3]).scheduled(lambda t: 0.5 * t),
        "over time": TimeTableReward(torch.randn(4, size, generator=random, dtype=torch.float64)),
        "visits": VisitationPenalty(torch.rand(size, generator=random, dtype=torch.float64)),
        "distance": DistancePenalty([0], 0.1, metric=torch.arange(size)),
        "linear": LinearReward(torch.rand(size, 2, generator=random, dtype=torch.float64), [1.0, -1.0]),
        "barrier": LogBarrier(torch.linspace(-0.1, 2, size)),
        "function": plain_toll,
        "lambda": lambda state, action, next_state, t: -1.0 * (next_state != state).double() * (t + 1),
    }


def models():
    process = bridge().mdp
    for name, reward in rewards(process).items():
        gated = as_reward(reward).at(states=~process.terminal)
        yield name, TrajectoryModel(process, gated, horizon=4, temperature=0.7, discount=0.9, name=name)
    for seed in range(6):
        yield f"random {seed}", random_problem(seed + 300).model
    yield "shaped", shaped(bridge(), torch.linspace(0, 1, process.num_states))
    yield "float32", bridge().to(dtype=torch.float32)
    yield "bare function", TrajectoryModel(MDP([[[0.5, 0.5]], [[0.3, 0.7]]], [1.0, 0.0]), plain_toll, horizon=2)


MODELS = dict(models())
CODE = {"lambda", "scheduled by code", "function", "bare function"}


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back_the_same(name, tmp_path):
    model = MODELS[name]
    same(model, pickle.loads(pickle.dumps(model)))
    same(model, copy.deepcopy(model))
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", expected="trajectory-model")
    same(model, loaded)
    assert isinstance(loaded.reward, EvaluatedReward) == (name in CODE)
    assert loaded.reward.label == model.reward.label
    same(loaded, pickle.loads(pickle.dumps(loaded)))


@pytest.mark.parametrize("name", ["random 1", "sum"])
def test_batches_come_back_the_same(name, tmp_path):
    model = MODELS[name]
    tables = torch.randn(3, model.mdp.num_states, dtype=torch.float64) * (~model.mdp.terminal)
    for batch in (
        model.batch(temperature=[0.5, 1.0, 2.0], horizon=[2, 3, 4]),
        model.batch(reward=tables),
        model.batch(reward=[0.5, tables[0], lambda state, action, next_state, t: 0.0 * state + 1.0 * t])
        if not model.mdp.terminal.any()
        else model.batch(initial=torch.eye(model.mdp.num_states)[:3]),
    ):
        batch.save(tmp_path / "batch")
        for other in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), load(tmp_path / "batch")):
            assert other.horizons == batch.horizons
            for one, two in zip(batch, other, strict=True):
                same(one, two)


def test_a_model_made_of_a_lambda_reaches_a_new_process():
    names = ["lambda", "float32", "random 2"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(len_of_reward, [MODELS[name] for name in names])
    assert found == [len_of_reward(MODELS[name]) for name in names]


def len_of_reward(model):
    return [float(model.reward_table(t).nan_to_num().sum()) for t in model.reward_times]


def test_deep_copies_keep_what_gradients_reach():
    base = bridge()
    price = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    model = base.replace(reward=base.reward * (price * 2))
    copied = copy.deepcopy(model)
    copied.reward_table(0).nan_to_num().sum().backward()
    assert price.grad is not None
    assert copied.simulator is not model.simulator


def test_processes_and_observations_can_be_saved(tmp_path):
    for process in (bridge().mdp, MODELS["random 0"].mdp, bridge().mdp.to(dtype=torch.float32)):
        loaded = load(process.save(tmp_path / "process"), expected="mdp")
        same(TrajectoryModel(process, 0.0, horizon=1), TrajectoryModel(loaded, 0.0, horizon=1))
    seen = kitchen_observations()
    save(tmp_path / "seen", seen)
    assert torch.equal(load(tmp_path / "seen").probabilities, seen.probabilities)


def test_notebooks_show_facts():
    batch = bridge().batch(temperature=[1.0, 2.0])
    for value in (bridge(), bridge().mdp, batch, MODELS["float32"]):
        assert value._repr_html_().startswith("<table>")
        assert len(repr(value).splitlines()) == 1
    assert "&lt;" in TrajectoryModel(bridge().mdp, 0.0, name="<b>")._repr_html_()

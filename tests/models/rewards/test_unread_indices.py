"""Rewards that use an index which they are declared not to read are refused, whatever they do with it."""

import copy
import math
import operator
import pickle

import numpy as np
import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel, bridge, reward_factor
from cai.models.rewards.base import RewardFactor
from cai.models.rewards.unread import Unread, UnreadIndexError

TABLE = torch.arange(6.0, dtype=torch.float64)
USES = {
    "==": lambda s, x: (x == 3) * -1.0,
    "== on the right": lambda s, x: operator.eq(3, x) * -1.0,
    "!=": lambda s, x: (x != 3) * -1.0,
    "< with a tensor": lambda s, x: (s < x) * -1.0,
    "== with a tensor": lambda s, x: (s == x) * -1.0,
    "== with an array": lambda s, x: torch.as_tensor((np.arange(6)[s] == x) * -1.0),
    "arithmetic": lambda s, x: -1.0 * x,
    "tensor arithmetic": lambda s, x: s + x,
    "index of a tensor": lambda s, x: TABLE[x],
    "index beside another": lambda s, x: TABLE[:, None][s, x],
    "index of an array": lambda s, x: torch.as_tensor(TABLE.numpy()[x]),
    "index of a list": lambda s, x: s * [1.0, 2.0][x],
    "key": lambda s, x: s * {3: 1.0}.get(x, 0.0),
    "in a list": lambda s, x: s * (1.0 if x in [3, 4] else 0.0),
    "in a set": lambda s, x: s * (1.0 if x in {3, 4} else 0.0),
    "if": lambda s, x: s * (1.0 if x else 0.0),
    "not": lambda s, x: s * float(not x),
    "int": lambda s, x: s * int(x),
    "math": lambda s, x: s * math.sqrt(x),
    "range": lambda s, x: s * sum(range(x)),
    "torch.where": lambda s, x: torch.where(s == 3, x, 0.0),
    "torch.isin": lambda s, x: -1.0 * torch.isin(x, torch.tensor([3])),
    "torch.stack": lambda s, x: torch.stack([s, x]).sum(0),
    "as_tensor": lambda s, x: torch.as_tensor(x) * s,
    "np.equal": lambda s, x: torch.as_tensor(np.equal(x, 3) * -1.0),
    "np.asarray": lambda s, x: torch.as_tensor((np.asarray(x) == 3) * -1.0),
    "a method": lambda s, x: x.double(),
    "a shape": lambda s, x: torch.zeros(x.shape),
    "text": lambda s, x: s * len(f"{x}"),
    "the result": lambda s, x: x,
    "a copy": lambda s, x: s * len([copy.copy(x)]),
    "a deep copy": lambda s, x: s * len(copy.deepcopy([x])),
    "pickled": lambda s, x: s * float(pickle.dumps(x) == pickle.dumps(3)),
    "abs": lambda s, x: s * abs(operator.neg(x)),
}


def caught(state, x):
    try:
        return (x == 3) * -1.0
    except ValueError:
        return state * 0.0


def process():
    return MDP(torch.full((6, 2, 6), 1 / 6), torch.full((6,), 1 / 6))


@pytest.mark.parametrize("use", [*USES.values(), caught], ids=[*USES, "an error that is caught"])
@pytest.mark.parametrize("flag", ["reads_outcome", "reads_time"])
def test_every_use_in_a_function_is_refused(use, flag):
    def pays(state, action, next_state, t):
        return use(state, next_state if flag == "reads_outcome" else t)

    name = "next_state" if flag == "reads_outcome" else "t"
    with pytest.raises(ValueError, match=rf"reward function pays reads {name}, and it was said not to \({flag}=False"):
        TrajectoryModel(process(), reward_factor(**{flag: False})(pays), horizon=3)


@pytest.mark.parametrize("use", [*USES.values(), caught], ids=[*USES, "an error that is caught"])
@pytest.mark.parametrize("name", ["next_state", "outcome", "t"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_use_in_a_class_is_refused(use, name, wrapped):
    class Pays(RewardFactor):
        reads_outcome = name == "t"
        reads_time = name != "t"

        def evaluate(self, mdp, step):
            return use(step.state, getattr(step, name))

    factor = Pays()
    if wrapped:  # what is around it reads all of them
        factor = 2.0 * factor.at(next_states=[1]).scheduled(lambda t: 1.0 + t) + cai.models.Goal([2], 1.0)
    flag = "reads_time" if name == "t" else "reads_outcome"
    with pytest.raises(ValueError, match=rf"reward factor Pays reads step.{name}, and its {flag} is False"):
        TrajectoryModel(process(), factor, horizon=3)


def test_what_is_not_used_may_be_handed_on():
    def pays(state, action, next_state, t):
        return torch.stack([1.0 * state, 1.0 * action.expand_as(state) if next_state is None else 2.0 * state]).sum(0)

    factor = reward_factor(reads_outcome=False, reads_time=False)(pays)
    model = TrajectoryModel(process(), factor.at(next_states=[1]) + 0.5 * factor.scheduled([1.0, 2.0]), horizon=2)
    assert model.reward_table(1)[2, 0].tolist() == [6.0, 12.0, 6.0, 6.0, 6.0, 6.0]


def test_the_bridge_with_flags_that_are_not_true():
    model = bridge()
    cell = model.mdp.state_index("(2,1)")

    def pays(state, action, next_state, t):
        return (next_state == cell) * -1.0

    def rush(state, action, next_state, t):
        return (t == 3) * (state == cell) * -1.0

    for reward, flag, wanted in ((pays, "reads_outcome", -0.7555193508), (rush, "reads_time", -0.1374240890)):
        found = cai.infer(TrajectoryModel(model.mdp, reward, horizon=5)).log_evidence
        assert math.isclose(float(found), wanted, abs_tol=1e-9)
        with pytest.raises(UnreadIndexError, match=f"{flag}=False"):
            TrajectoryModel(model.mdp, reward_factor(**{flag: False})(reward), horizon=5)


def test_an_unread_index_can_be_looked_at():
    index = Unread("not given")
    assert repr(index)
    assert index is not None
    assert not hasattr(index, "__float128__")

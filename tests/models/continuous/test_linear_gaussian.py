"""LinearGaussianModel: axes, what is refused, the simulator against its own numbers, copies and files."""

import copy
import math
import pickle

import pytest
import torch

import cai
from cai.models import Flat, Gaussian, LinearGaussianModel, LinearNormal, QuadraticReward, Simulator

A, B = [[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]]


def model(**changes):
    arguments = {
        "noise": [[0.0, 0.0], [0.0, 0.01]],
        "initial": ([1.0, 0.0], [[0.1, 0.0], [0.0, 0.2]]),
        "horizon": 4,
        "reward": QuadraticReward(Q=[[1.0, 0.2], [0.2, 1.0]], R=[[0.5]], N=[[0.1], [0.0]], q=[0.3, 0.0], r=[0.2]),
        "action_prior": LinearNormal(L=[[2.0]]),
    } | changes
    return LinearGaussianModel(arguments.pop("A", A), arguments.pop("B", B), **arguments)


def test_a_step_has_every_matrix_with_the_batch_in_front():
    batch = torch.randn(3, 1, 2, 2).double()
    timed = torch.randn(4, 2).double()
    found = model(A=batch, offset=timed, action_prior=LinearNormal(k0=[[0.0], [1.0], [2.0], [3.0]], L=[[2.0]]))
    assert found.batch_shape == (3,)
    step = found.matrices(2)
    assert torch.equal(step.A, batch[:, 0])
    assert torch.equal(step.offset, timed[2].expand(3, 2))
    assert step.k0.shape == (3, 1)
    assert (step.k0 == 2).all()
    assert step.Q.shape == (3, 2, 2)
    assert step.const.shape == (3,)
    assert [part.shape for part in found.final] == [(3, 2, 2), (3, 2), (3,)]
    assert found.start.mean.shape == (3, 2)
    assert found.is_time_varying
    assert not model().is_time_varying


def test_files_copies_and_pickles_hold_the_same_numbers(tmp_path):
    weight = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    first = model(
        name="mine",
        action_prior=Flat(),
        reward=QuadraticReward(R=weight * 2),
    )
    first.save(tmp_path / "m.cai")
    for other in (cai.load(tmp_path / "m.cai"), pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert type(other) is LinearGaussianModel
        for one, two in zip(first.matrices(1)[:10], other.matrices(1)[:10], strict=True):
            assert torch.equal(one, two)
        assert (other.name, other.horizon, other.is_flat) == ("mine", 4, True)
        assert isinstance(other.initial, Gaussian)
    (gradient,) = torch.autograd.grad(copy.deepcopy(first).matrices(0).R.sum(), weight)
    assert float(gradient) == 2


def test_it_says_what_it_is():
    assert "n=2, m=1, horizon=4" in repr(model())
    assert "action_prior=Flat" in repr(model(action_prior=Flat()))
    assert "temperature" in model()._repr_html_()
    assert isinstance(model(), Simulator)
    assert model().replace(temperature=2.0).temperature == 2.0
    assert model(horizon=math.inf, discount=0.9).steps == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 0}, "at least 1"),
    ],
)
def test_bad_numbers_are_refused(changes, words):
    with pytest.raises((ValueError, TypeError), match=words):
        model(**changes)

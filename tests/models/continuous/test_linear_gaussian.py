"""LinearGaussianModel: axes, what is refused, the simulator against its own numbers, copies and files."""

import copy
import math
import pickle

import pytest
import torch

import cai
from cai.models import Flat, Gaussian, LinearGaussianModel, LinearNormal, QuadraticReward, Simulator
from cai.models.continuous.simulate import DivergedRollout

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


def timed(matrix, at, wrong):
    """[4, ...], a matrix for each step, one of them wrong."""
    return [wrong if t == at else matrix for t in range(4)]


EYE = [[1.0, 0.0], [0.0, 1.0]]
WRONG = {
    "noise is not symmetric": (
        {"noise": timed(EYE, 2, [[1.0, 0.5], [0.0, 1.0]])},
        r"noise \(step t = 2\) is not symmetric, and a covariance is; give \(M \+ M'\) / 2",
    ),
    "noise has a negative eigenvalue": (
        {"noise": [[[[1.0, 0.0], [0.0, 1.0]]], [[[1.0, 2.0], [2.0, 1.0]]]]},
        r"noise \(member 1 of the batch, step t = 0\) has the eigenvalue -1 .*e.g. M M'",
    ),
    "a slightly negative eigenvalue": ({"noise": [[1.0, 0.0], [0.0, -1e-9]]}, "eigenvalue -1e-09"),
    "the start is not symmetric": (
        {"initial": ([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]])},
        "the covariance of initial is not symmetric",
    ),
    "the start has a negative eigenvalue": (
        {"initial": ([0.0, 0.0], [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])},
        r"the covariance of initial \(member 1 of the batch\) has the eigenvalue -1",
    ),
    "L is singular": (
        {"B": EYE, "reward": None, "action_prior": LinearNormal(L=timed(EYE, 3, [[1.0, 1.0], [1.0, 1.0]]))},
        r"the action prior's L \(step t = 3\) is singular.*give every action some noise",
    ),
    "L has a negative eigenvalue": (
        {"action_prior": LinearNormal(L=[[-1.0]])},
        "the action prior's L has the eigenvalue -1 .*e.g. M M'",
    ),
    "NaN in the noise": ({"noise": [[math.nan, 0.0], [0.0, 1.0]]}, "noise holds NaN or inf"),
    "NaN in the start": ({"initial": ([0.0, 0.0], [[math.nan, 0.0], [0.0, 1.0]])}, "covariance of initial holds NaN"),
    "NaN in L": ({"action_prior": LinearNormal(L=[[math.nan]])}, "the action prior's L holds NaN or inf"),
    "L is zero": ({"action_prior": LinearNormal(L=[[0.0]])}, "the action prior's L is singular"),
    "L is not symmetric": (
        {"B": EYE, "reward": None, "action_prior": LinearNormal(L=[[1.0, 0.5], [0.0, 1.0]])},
        "the action prior's L is not symmetric",
    ),
    "A is not square": (
        {"A": [[1.0, 0.0]]},
        r"A has shape \[1, 2\]; expected \[n, n\] or \[..., T, n, n\] with n = 2",
    ),
    "B has other rows": ({"B": [[1.0]]}, r"B has shape \[1, 1\]; expected \[n, m\]"),
    "A is a number": ({"A": 1.0}, r"A has shape \[\]; expected \[n, n\]"),
    "a batch without a time axis": (
        {"A": [EYE, EYE, EYE]},
        r"A has shape \[3, 2, 2\]: the axis before \[n, n\] is time and must have length T = 4, or 1; a batch of "
        r"constants is \[B, 1, n, n\]",
    ),
    "batches of other sizes": (
        {"A": [[EYE]] * 3, "offset": [[[0.0, 0.0]]] * 2},
        r"the batch axes of offset, \[2\], do not fit those of A, \[3\]",
    ),
    "time over an infinite horizon": (
        {"horizon": math.inf, "offset": timed([0.0, 0.0], 0, [1.0, 0.0])},
        "must have length 1, as the horizon is infinite",
    ),
    "a final reward over an infinite horizon": (
        {"horizon": math.inf, "reward": QuadraticReward(final=EYE)},
        "a final reward is never paid; leave out final",
    ),
    "NaN in A": ({"A": timed(EYE, 1, [[1.0, math.nan], [0.0, 1.0]])}, r"A \(step t = 1\) holds NaN or inf"),
    "inf in Q": ({"reward": QuadraticReward(Q=[[math.inf, 0.0], [0.0, 1.0]])}, "Q holds NaN or inf"),
    "NaN in a prior's mean": ({"action_prior": LinearNormal(k0=[math.nan], L=[[1.0]])}, "k0 holds NaN or inf"),
    "N is given as [m, n]": (
        {"reward": QuadraticReward(N=[[0.1, 0.0]])},
        r"N has shape \[1, 2\]; expected \[n, m\] or \[..., T, n, m\] with n = 2, m = 1",
    ),
    "qf has another length": (
        {"reward": QuadraticReward(final=(EYE, [1.0]))},
        r"the final reward's qf has shape \[1\]; expected \[n\] with n = 2",
    ),
    "too many final parts": (lambda: QuadraticReward(final=(EYE, [1.0, 0.0], 0.0, 1.0)), "final has 4 parts"),
    "another reward": ({"reward": lambda s, a, t: 0.0}, "takes a QuadraticReward"),
    "no start": ({"initial": None}, r"initial is missing; give \(m1, S1\)"),
    "a start of three": ({"initial": (1, 2, 3)}, "initial has 3 parts"),
    "no prior": ({"action_prior": None}, r"have no default: give LinearNormal\(K0, k0, L\), a Gaussian, or Flat"),
    "a table as prior": ({"action_prior": [[1.0]]}, r"action_prior is a list; .*takes LinearNormal"),
    "a prior without L": (lambda: LinearNormal(k0=[1.0]), "has no covariance L"),
    "a flat prior of other size": ({"action_prior": Flat(2)}, r"Flat\(2\), and B has 1 columns"),
    "a flat prior of no size": (lambda: Flat(0), "dim is 0"),
    "no steps": ({"horizon": 0}, "at least 1"),
    "half a step": ({"horizon": 2.5}, "whole number of steps"),
    "temperature 0": ({"temperature": 0.0}, "temperature is 0.0; it must be > 0"),
    "temperature below 0": ({"temperature": torch.tensor(-1.0)}, "temperature is -1.0; it must be > 0"),
    "a row of temperatures": (
        {"temperature": torch.ones(2)},
        r"temperature has shape \[2\]; all members of a batch share one",
    ),
    "discount 2": ({"discount": 2.0}, "discount is 2.0"),
    "an average over a finite horizon": ({"criterion": "average"}, "give horizon=math.inf"),
    "a discounted average": (
        {"criterion": "average", "horizon": math.inf, "reward": None, "discount": 0.9},
        "takes no discount",
    ),
    "an unknown criterion": ({"criterion": "mean"}, "expected 'total'"),
    "an unknown argument": ({"gamma": 0.9}, "did you mean 'discount'"),
    "words": ({"noise": [["a", "b"], ["c", "d"]]}, "expected real numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused_with_what_to_do(case):
    wrong, words = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=words):
        wrong() if callable(wrong) else model(**wrong)


def test_sparse_tensors_are_read_as_the_dense_ones_that_they_are():
    assert torch.equal(model(A=torch.eye(2).to_sparse()).A, torch.eye(2).double())


def test_covariances_may_be_singular_and_costs_indefinite():
    found = model(noise=torch.zeros(2, 2), reward=QuadraticReward(Q=[[-1.0, 0.0], [0.0, 1.0]], R=[[-1.0]]))
    assert not found.noise.any()
    rounded = torch.tensor([[1.0, 0.1], [0.1 + 1e-7, 1.0]])
    assert torch.equal(model(noise=rounded).noise, model(noise=rounded).noise.mT)
    assert model(reward=QuadraticReward(Q=[[1.0, 2.0], [0.0, 1.0]])).reward.Q.tolist() == [[1.0, 1.0], [1.0, 1.0]]


# ---- the simulator --------------------------------------------------------------------------------------------------


def test_steps_have_the_mean_the_covariance_and_the_reward_that_was_written():
    given = model(offset=[0.1, -0.2], reward=QuadraticReward(Q=EYE, R=[[0.5]], N=[[0.3], [0.0]], const=2.0, final=EYE))
    number, generator = 200_000, torch.Generator().manual_seed(3)
    start = given.reset(number, generator)
    assert torch.allclose(start.mean(0), torch.tensor([1.0, 0.0]).double(), atol=5e-3)
    assert torch.allclose(start.T.cov(), torch.tensor([[0.1, 0.0], [0.0, 0.2]]).double(), atol=5e-3)
    states = torch.tensor([1.0, -1.0]).double().expand(number, 2)
    actions = torch.full((number, 1), 0.5).double()
    moved, rewards, alive = given.step(states, actions, 0, generator)
    assert torch.allclose(moved.mean(0), torch.tensor([1.0 - 0.1 + 0.1, -1.0 + 0.05 - 0.2]).double(), atol=2e-3)
    assert moved[:, 0].std() < 1e-12
    assert moved[:, 1].var() == pytest.approx(0.01, rel=0.02)
    assert rewards[0] == pytest.approx(-(0.5 * 2 + 0.3 * 1.0 * 0.5 + 0.25 * 0.25 + 2.0), abs=1e-12)
    assert alive.all()
    moved, rewards, _ = given.step(states, actions, 3, generator)
    want = -(0.5 * 2 + 0.15 + 0.0625 + 2.0) - 0.5 * moved.square().sum(-1)
    assert torch.allclose(rewards, want, atol=1e-12)


def test_the_same_seed_gives_the_same_run_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    runs = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        states = model().reset(7, generator)
        runs.append(model().step(states, states[:, :1], 1, generator).next_states)
    assert torch.equal(*runs)
    assert torch.equal(before, torch.get_rng_state())


def test_a_discount_ends_chains_at_its_rate():
    given = model(discount=0.75)
    generator = torch.Generator().manual_seed(0)
    states, number = given.reset(40_000, generator), 40_000
    for t in range(2):
        states, rewards, alive = given.step(states, states.new_zeros(number, 1), t, generator)
        assert float(alive.double().mean()) == pytest.approx(0.75 ** (t + 1), abs=0.01)
    assert torch.isinf(states[~alive]).all()
    after, rewards, still = given.step(states, states[:, :1], 2, generator)
    assert (rewards[~alive] == 0).all()
    assert torch.isinf(after[~alive]).all()
    assert not still[~alive].any()
    assert torch.isfinite(after[still]).all()


def test_gradients_pass_through_a_step_and_a_batch_runs_beside_itself():
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    batch = model(offset=[[[0.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]]])
    states = batch.reset(5)
    assert states.shape == (5, 3, 2)
    moved, rewards, _ = batch.step(states, gain * states[..., 1:], 0)
    assert moved.shape == (5, 3, 2)
    assert rewards.shape == (5, 3)
    (gradient,) = torch.autograd.grad((moved[..., 1] * 2).sum(), gain)
    assert float(gradient) == pytest.approx(float(0.2 * states[..., 1].sum()))
    with pytest.raises(ValueError, match=r"actions have shape \[5, 1\]; expected \[5, 3, 1\]"):
        batch.step(states, torch.zeros(5, 1), 0)


def test_a_run_that_diverges_says_when():
    wild = model(A=[[1e200, 0.0], [0.0, 1.0]], horizon=3)
    states = wild.reset(2)
    states = wild.step(states, torch.zeros(2, 1).double(), 0).next_states
    with pytest.raises(DivergedRollout, match="at time index 1 are no finite numbers: the rollout diverged") as error:
        wild.step(states, torch.zeros(2, 1).double(), 1)
    assert error.value.step == 1

"""What the terms of a continuous model's reward are worth, held against moments and rollouts worked out here."""

import math

import pytest
import torch
from gaussian_models import integrator

import cai
from cai.models import ContinuousModel, LinearNormal, QuadraticReward, bridge, double_integrator, dubins, multi_goal
from cai.studies import ContinuousExplanation


def rich(**changes):
    """Every term of the reward, over time, with a cross term and an end."""

    def draw(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)

    reward = QuadraticReward(
        Q=torch.eye(2).double().expand(10, 2, 2) * torch.linspace(1, 2, 10)[:, None, None].double(),
        R=[[1.5]],
        N=0.2 * draw(2, 1),
        q=0.3 * draw(10, 2),
        r=[0.4],
        const=torch.linspace(-1, 1, 10).double(),
        final=(2 * torch.eye(2).double(), [0.1, -0.2], 0.7),
    )
    return integrator(reward=reward, **changes)


def by_term(model, states, actions, t):
    """What one step pays, written out."""
    step = model.matrices(t)
    s, a = states[:, t], actions[:, t]
    return {
        "state (Q, q)": -torch.einsum("ki,ij,kj->k", s, step.Q, s) / 2 - s @ step.q,
        "action (R, r)": -torch.einsum("ki,ij,kj->k", a, step.R, a) / 2 - a @ step.r,
        "state and action (N)": -torch.einsum("ki,ij,kj->k", s, step.N, a),
        "constant": -step.const.expand(len(s)),
    }


@pytest.mark.parametrize(
    ("changes", "backend"), [({}, "exact"), ({"discount": 0.8}, "variational"), ({}, "risk:eta=0.3")]
)
def test_terms_of_a_quadratic_reward_add_up_and_are_those_of_trajectories(changes, backend):
    model = rich(**changes)
    told = cai.explain_reward(model, backend)
    answer = told.posterior
    assert told.terms == ("state (Q, q)", "action (R, r)", "state and action (N)", "constant", "final")
    assert float(told.believed.sum()) == pytest.approx(float(answer.believed_return), rel=1e-12)
    outcome = cai.evaluate(answer.policy(), model, num_rollouts=2)
    assert float(told.real.sum()) == pytest.approx(outcome.expected_return, rel=1e-12)
    frame = told.to_frame()
    assert float(frame["nats"].iloc[:-1].sum()) == pytest.approx(float(frame["nats"].iloc[-1]), rel=1e-10)
    assert told.total == pytest.approx(float(answer.elbo))
    states, actions = answer.sample(20_000, seed=1)
    for t in (0, 4, 9):
        for name, values in by_term(model, states, actions, t).items():
            found = told.believed[t, told.terms.index(name)] / model.discount**t
            assert abs(float(values.mean() - found)) < 5 * float(values.std()) / math.sqrt(len(values)) + 1e-12
    s = states[:, -1]
    last = -(s.square().sum(-1) + s @ torch.tensor([0.1, -0.2]).double() + 0.7) * model.discount**9
    assert abs(float(last.mean() - told.believed[-1, -1])) < 5 * float(last.std()) / math.sqrt(len(last))
    assert not bool(told.believed[:-1, -1].any())


def test_fixed_dynamics_believe_what_is_real_and_the_exact_answer_does_not():
    held = cai.explain_reward(double_integrator(), "variational").to_frame()
    assert held["gap"].dropna().abs().max() < 1e-12
    hoped = cai.explain_reward(double_integrator(), "exact").to_frame()
    assert (hoped["gap"].dropna() > 0).all()
    assert hoped["believed_error"].isna().all()


def test_trajectories_tell_where_nothing_is_exact(tmp_path):
    told = cai.explain_reward(dubins(), "ilqr", num_rollouts=200)
    assert told.terms == ("discs", "steering", "final")
    outcome = cai.evaluate(told.posterior.policy(), dubins(), num_rollouts=200, seed=3)
    error = float(told.real_error.square().sum().sqrt()) + outcome.expected_return_error
    assert abs(float(told.real.sum()) - outcome.expected_return) < 5 * error
    assert torch.equal(told.believed, told.real)  # the policy in the true world is all that q is
    told.save(tmp_path / "told")
    loaded = cai.load(tmp_path / "told")
    assert isinstance(loaded, ContinuousExplanation)
    assert torch.equal(loaded.real, told.real)
    assert told.to_xarray()["real"].dims == ("time", "share")
    assert len(told.plot().axes) == 2


def test_chains_that_have_ended_pay_nothing():
    told = cai.explain_reward(multi_goal(horizon=12), "smc", num_rollouts=50)
    assert told.terms == ("effort", "distance", "goal")
    assert float(told.believed[:, 2].sum()) <= 1 + 1e-12  # a goal is entered once and pays 10 / 10
    assert float(told.believed.sum()) == pytest.approx(float(told.posterior.believed_return), abs=3.0)
    sampled = cai.explain_reward(double_integrator(), "smc", num_rollouts=20)
    assert sampled.terms == ("state (Q, q)", "action (R, r)", "final")


def test_terms_that_are_given_must_add_up():
    def model(reward):
        return ContinuousModel(
            torch.zeros(1).double(),
            lambda s, a, t: s + a,
            reward,
            3,
            LinearNormal(L=[[1.0]]),
            lambda s: -(s[..., 0] ** 2),
        )

    near, calm = lambda s, a, t: -((s[..., 0] - 1) ** 2), lambda s, a, t: -(a[..., 0] ** 2)
    whole = model(lambda s, a, t: near(s, a, t) + calm(s, a, t))
    told = cai.explain_reward(whole, "mppi", terms={"near": near, "calm": calm}, num_rollouts=20)
    assert told.terms == ("near", "calm", "final")
    assert cai.explain_reward(whole, "mppi", num_rollouts=20).terms == ("step", "final")
    with pytest.raises(ValueError, match=r"the terms near add up to .* and the reward is"):
        cai.explain_reward(whole, "mppi", terms={"near": near}, num_rollouts=20)
    with pytest.raises(ValueError, match=r"the term 'near' returned \[20, 1\]"):
        cai.explain_reward(whole, "mppi", terms={"near": lambda s, a, t: s, "calm": calm}, num_rollouts=20)
    with pytest.raises(ValueError, match="'final'"):
        cai.explain_reward(whole, "mppi", terms={"final": near})


def test_what_can_not_be_split_is_refused():
    batch = integrator(noise=0.01 * torch.eye(2).double().expand(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"model\.member\(0\)"):
        cai.explain_reward(batch, "exact")
    with pytest.raises(ValueError, match="horizon=N"):
        cai.explain_reward(double_integrator(horizon=math.inf, discount=0.9), "variational")
    with pytest.raises(ValueError, match="discretize"):
        cai.explain_reward(double_integrator(), visits=[0])
    with pytest.raises(ValueError, match=r"reward\.terms\(\)"):
        cai.explain_reward(bridge(), terms={})
    with pytest.raises(TypeError, match="continuous model"):
        cai.explain_reward(lambda: None)

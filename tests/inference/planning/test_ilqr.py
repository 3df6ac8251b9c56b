"""The answer of the iterative regulator: exact where the world is linear, a policy in closed loop elsewhere."""

import copy
import math
import pickle
import re

import pyro
import pytest
import torch
from gaussian_oracle import random_numbers
from planning_problems import as_model, planning_model, regulator

import cai
from cai.inference import FlowPolicy, InferenceError, IterativeLQR, NotKnown
from cai.inference.core.status import Status
from cai.models import ContinuousModel, Flat, Gaussian, LinearNormal, bridge, discretize, double_integrator

NUMBERS = ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_on_a_linear_model_it_is_the_variational_answer(seed, discount):
    numbers = random_numbers(seed, flat=seed % 2 == 1)
    model = as_model(numbers, discount=discount)
    found, expected = cai.infer(model, "ilqr"), cai.infer(model, "variational")
    assert found.log_evidence is None
    for name in NUMBERS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9, msg=name)
    states = torch.randn(5, model.state_dim).double()
    for t in range(model.horizon):
        torch.testing.assert_close(found.gain(t), expected.gain(t), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.offset(t), expected.offset(t), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.covariance(t), expected.covariance(t), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.value(states, t), expected.value(states, t), rtol=1e-8, atol=1e-8)
    site = found.marginal("s_2")
    torch.testing.assert_close(site.covariance, expected.marginal("s_2").covariance, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.sample(4).states, expected.sample(4).states, rtol=1e-6, atol=1e-6)


def test_on_a_linear_model_gains_are_those_of_a_plain_loop():
    numbers = random_numbers(5)
    found = cai.infer(as_model(numbers), "ilqr", restarts=1)
    for t, (K, k, Haa) in enumerate(zip(*regulator(numbers), strict=True)):
        torch.testing.assert_close(found.gain(t), torch.as_tensor(K), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.offset(t), torch.as_tensor(k), rtol=1e-8, atol=1e-8)
        spread = numbers.alpha * torch.linalg.inv(torch.as_tensor(Haa))
        torch.testing.assert_close(found.covariance(t), spread, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def around():
    return cai.infer(planning_model("dubins"), "ilqr")


def test_the_costs_of_every_restart_are_told(around):
    assert around.details["costs"].shape == (8,)
    assert around.details["cost"] == float(around.details["costs"].min()) <= 0.975
    assert around.details["history"][-1] == around.details["cost"]


def test_what_a_local_model_cannot_know_is_not_told(around):
    assert (around.elbo, around.log_evidence, around.believed_return, around.policy_divergence) == (None,) * 4
    assert float(around.luck) == 0
    expected = sum(0.5 * math.log(2 * math.pi * math.e * float(around.covariance(t))) for t in range(70))
    assert float(around.policy_entropy) == pytest.approx(expected)
    with pytest.raises(NotKnown, match=r"its dynamics are those of a local model.*log_prob"):
        around.log_prob(*around.plan)
    assert isinstance(around.marginal("a_3"), Gaussian)


def test_the_policy_corrects_what_pushes_it_off_the_plan(around):
    model, policy = planning_model("dubins"), around.policy("greedy")
    pushed = model.replace(initial=torch.tensor([0.0, 0.1, 0.1]).double())

    def cost(act):
        state, total = pushed.reset(1), 0.0
        for t in range(70):
            state, reward, _ = pushed.step(state, act(state, t), t)
            total -= float(reward)
        return total

    assert cost(policy.act) < 0.5 * cost(lambda state, t: around.plan.actions[t].expand(1, 1))
    at = around.plan.states[3]
    torch.testing.assert_close(policy.act(at, 3), around.plan.actions[3], atol=1e-2, rtol=0)


def test_local_derivatives_are_those_of_the_plan(around):
    """The local dynamics pass through the plan's states, and the covariance is alpha / Haa."""
    for t in (0, 30, 69):
        A, B, offset, noise = around.dynamics(t)
        moved = A @ around.plan.states[t] + B @ around.plan.actions[t] + offset
        torch.testing.assert_close(moved, around.plan.states[t + 1])
        assert not noise.any()
    cold = cai.infer(planning_model("dubins", temperature=0.25), "ilqr")
    torch.testing.assert_close(cold.covariance(9), around.covariance(9) / 4, rtol=1e-3, atol=0)


def test_samples_are_runs_of_the_policy_in_the_world(around):
    states, actions = around.sample(3, seed=2)
    model = planning_model("dubins")
    assert (states.shape, actions.shape) == ((3, 71, 3), (3, 70, 1))
    for t in (0, 40):
        moved, _, _ = model.step(states[:, t], actions[:, t], t)
        torch.testing.assert_close(moved, states[:, t + 1])


def test_a_seed_gives_the_same_plan():
    model = planning_model("dubins", horizon=12)
    one, two = (cai.infer(model, "ilqr", seed=3) for _ in range(2))
    assert torch.equal(one.plan.actions, two.plan.actions)
    assert torch.equal(one.details["costs"], two.details["costs"])


def short(**changes):
    return planning_model("pendulum", horizon=12, **changes)


def test_any_answer_can_be_a_warm_start():
    numbers = random_numbers(1)
    model = as_model(numbers)
    best = cai.infer(model, "ilqr", restarts=1).details["cost"]
    starts = [cai.infer(model, name) for name in ("exact", "variational", "ilqr", "mppi", "aico")]
    starts += [cai.infer(model, "smc", num_particles=20, throw=False), starts[0].policy(), starts[2].plan.actions]
    flow = FlowPolicy(hidden_sizes=(4,))  # which draws in any case
    starts += [cai.infer(model, "restricted", policy=flow, max_iterations=1, throw=False)]
    for start in starts:
        found = cai.infer(model, "ilqr", restarts=1, warm_start=start, max_iterations=3)
        assert found.details["cost"] == pytest.approx(best)


def test_the_answer_to_a_grid_can_be_a_warm_start():
    model = ContinuousModel(
        torch.tensor([1.0]).double(),
        lambda s, a, t: s + a,
        lambda s, a, t: -s.square().sum(-1) - a.square().sum(-1),
        4,
        LinearNormal(L=[[1.0]]),
        temperature=0.01,
    )
    grid = discretize(model, [torch.linspace(-2, 2, 41)], [torch.linspace(-1, 1, 21)])
    start = IterativeLQR(warm_start=cai.infer(grid, "variational"), restarts=1).learner(model).init(model, seed=0)
    best = cai.infer(model, "ilqr")
    torch.testing.assert_close(start.actions[0], best.plan.actions, atol=0.1, rtol=0)
    with pytest.raises(ValueError, match="tables whose states and actions are not named by their coordinates"):
        cai.infer(model, "ilqr", warm_start=cai.infer(bridge(), "exact"))


def test_a_warm_start_begins_where_it_was():
    plan = cai.infer(short(), "mppi", num_samples=100)
    cut = IterativeLQR(warm_start=plan, restarts=1).learner(short())
    assert torch.equal(cut.init(short(), seed=0).actions[0], plan.plan.actions)
    refined = cai.infer(short(), "ilqr", warm_start=plan, restarts=1)
    assert refined.details["cost"] < plan.details["cost"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("a plan", r"warm_start is a str; give an answer of infer, a policy, or controls \[T, m\]"),
        (torch.zeros(3, 1), r"controls of shape \[3, 1\]; the model takes \[12, 1\]"),
        (torch.full((12, 1), math.nan), "controls that are NaN or infinite; its answer may have failed"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused(start, message):
    with pytest.raises((TypeError, ValueError), match=message):
        cai.infer(short(), "ilqr", warm_start=start)


def test_of_a_batch_one_member_warms():
    model = double_integrator(horizon=4).replace(A=torch.eye(2).expand(3, 1, 2, 2))
    many = cai.infer(model, "exact")
    with pytest.raises(ValueError, match=r"numbers of shape \[3, 1\] in one state.*one member"):
        cai.infer(model.member(0), "ilqr", warm_start=many)


def test_a_search_that_is_cut_short_says_so():
    with pytest.raises(InferenceError, match="not converged") as caught:
        cai.infer(short(), "ilqr", max_iterations=1)
    assert caught.value.posterior.policy().act(torch.zeros(2), 0).shape == (1,)


def test_a_diverging_rollout_is_not_converged_with_its_step():
    model = planning_model("pendulum", horizon=30).replace(dynamics=lambda s, a, t: s * 1e30 + 1)
    answer = cai.infer(model, "ilqr", throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert 0 < answer.details["step"] < 30
    assert "left the finite numbers" in answer.details["why"]
    with pytest.raises(NotKnown):
        answer.policy()


def test_actions_that_cost_nothing_and_lead_nowhere_have_no_best():
    model = ContinuousModel(
        torch.zeros(1).double(), lambda s, a, t: s + 0 * a, lambda s, a, t: -(s[..., 0] ** 2), 4, Flat(1)
    )
    answer = cai.infer(model, "ilqr", throw=False)
    assert not answer.status.ok
    assert answer.believed_return is None


def test_a_proper_prior_is_part_of_the_cost():
    """With a Gaussian prior alpha/2 |a|^2 / L is paid; the same written as a flat reward finds the same plan."""
    alpha = 0.3
    prior = short(temperature=alpha, action_prior=LinearNormal(L=[[0.5]]))
    flat = short(temperature=alpha)
    paid = flat.replace(reward=lambda s, a, t: short().reward(s, a, t) - alpha * a[..., 0] ** 2 / (2 * 0.5))
    written = short(
        temperature=alpha,
        action_prior=lambda s, t: pyro.distributions.Normal(torch.zeros_like(s[..., :1]), math.sqrt(0.5)).to_event(1),
    )
    answers = [cai.infer(model, "ilqr", restarts=2, tolerance=1e-9) for model in (prior, paid, written)]
    constant = 12 * alpha * 0.5 * math.log(2 * math.pi * 0.5)
    for answer in answers:
        torch.testing.assert_close(answer.plan.actions, answers[0].plan.actions, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(answer.covariance(3), answers[0].covariance(3), rtol=1e-4, atol=1e-6)
    assert answers[0].details["cost"] == pytest.approx(answers[1].details["cost"] + constant)
    assert answers[0].details["cost"] == pytest.approx(answers[2].details["cost"])


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "save"])
def test_answers_and_policies_travel(way, tmp_path):
    model = as_model(random_numbers(2))
    for answer in (cai.infer(model, "ilqr", restarts=2), cai.infer(short(), "ilqr", restarts=2)):
        if way == "pickle":
            sent = pickle.loads(pickle.dumps(answer))
        else:
            sent = copy.deepcopy(answer) if way == "deepcopy" else cai.load(answer.save(tmp_path / "answer"))
        assert torch.equal(sent.plan.actions, answer.plan.actions)
        assert torch.equal(sent.gain(1), answer.gain(1))
        assert torch.equal(sent.details["costs"], answer.details["costs"])
        policy = cai.extract_policy(answer)
        other = cai.load(policy.save(tmp_path / "policy"))
        state = answer.plan.states[1]
        assert torch.equal(other.act(state, 1, deterministic=True), policy.act(state, 1, deterministic=True))
        action = answer.plan.actions[1]
        assert torch.equal(other.log_prob(action, state, 1), policy.log_prob(action, state, 1))


def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path):
    model = short()
    whole = cai.infer(model, "ilqr", restarts=2, seed=5)
    cut = cai.infer(model, "ilqr", restarts=2, seed=5, folder=tmp_path / "run", max_seconds=0.0, throw=False)
    assert cut.status is Status.NOT_CONVERGED
    resumed = cai.resume(tmp_path / "run", model=model)
    assert torch.equal(resumed.plan.actions, whole.plan.actions)
    assert resumed.details["history"] == whole.details["history"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("restarts", 0), ("max_iterations", 2.5), ("noise", -1.0), ("tolerance", math.inf), ("noise", "1")],
)
def test_options_are_refused_by_name(option, value):
    with pytest.raises(
        ValueError, match=rf"{option} is .*; (give a whole number of at least 1|expected a number >= 0)"
    ):
        IterativeLQR(**{option: value})


def untraced(s, a, t):
    return s + torch.as_tensor((a.detach().numpy() ** 2).copy())


REFUSED = {
    "a table": (bridge, "'ilqr' plans in a ContinuousModel"),
    "terminal states": (
        lambda: short(terminal=lambda s: s[..., 0] > 9),
        "terminal states have none; ask 'mppi' or 'smc'",
    ),
    "no derivatives": (lambda: short(dynamics=untraced), "torch.func finds none of the dynamics"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("backend", ["ilqr", "aico"])
def test_models_are_refused_with_what_fits(backend, what):
    make, message = REFUSED[what]
    model = make() if what != "no derivatives" else short().replace(dynamics=untraced)
    with pytest.raises(ValueError, match=message.replace("ilqr", backend)):
        cai.infer(model, backend)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "bar"), [("pendulum", 23.8731), ("dubins", 0.973906)])
def test_a_plan_by_path_integrals_warms_the_regulator(name, bar, seed):
    model = planning_model(name)
    warm = cai.infer(model, "mppi", seed=seed)
    assert cai.infer(model, "ilqr", warm_start=warm).details["cost"] <= 1.01 * bar


@pytest.mark.parametrize(
    "cost", [lambda a: 0.1 * a.abs(), lambda a: torch.relu(a.abs() - 1.0)], ids=["|a|", "beyond 1"]
)
def test_a_kink_in_the_cost_of_actions_is_no_infinite_value(cost):
    """The last action has no curvature: the search is not over, and the reason names what is smoothed."""
    model = ContinuousModel(
        torch.tensor([1.0, 0.0]).double(),
        lambda s, a, t: torch.stack([s[..., 0] + 0.1 * s[..., 1], s[..., 1] + 0.1 * a[..., 0]], -1),
        lambda s, a, t: -(s**2).sum(-1) - cost(a[..., 0]),
        5,
        Flat(1),
    )
    answer = cai.infer(model, "ilqr", throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert answer.details["step"] == 4
    assert re.search("no Gaussian policy, because Haa.*kink or no curvature, as .a..*smooth it", answer.details["why"])

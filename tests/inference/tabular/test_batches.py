"""Batches: every member is answered as on its own, whatever its neighbours are, and gradients reach what was given."""

import math

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from native_kernel import needs_native
from oracle import random_problem

import cai
from cai.inference import BatchError, InferenceError, PosteriorBatch, Status
from cai.inference.kernels import values as batched_values
from cai.models import MDP, ModelBatch, OutcomeReward, PotentialShaping, TrajectoryModel
from cai.models.rewards import StepCost, TimeTableReward

NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
TABLES = ("values", "q_values", "action_probs", "state_marginals", "absorbed")
KEEPS = ("values", "evidence")
BACKENDS = ("exact", "variational", "optimistic")


def slack(model):
    """Tolerance of what is made of exponentials of log messages: their rounding, 1e-16 relative to the largest one."""
    reward = torch.cat([model.reward_table(t).flatten() for t in model.reward_times])
    finite = reward[torch.isfinite(reward)].abs()
    largest = float(finite.max()) if len(finite) else 0.0
    return 1e-12 + 4e-15 * model.steps * largest / float(model.temperature)


def agree(got, want, rtol=1e-12, what=""):
    if want is None:
        assert got is None, what
        return
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol, msg=lambda text: f"{what}: {text}")


def assert_members(batch, backend, names=("elbo", "values", "action_probs"), **options):
    """Holds a batch, its members and its stacks against one call for each member."""
    answers = cai.infer(batch, backend, throw=False, **options)
    assert isinstance(answers, PosteriorBatch)
    assert len(answers) == len(batch)
    stacks = {name: getattr(answers, name) for name in names}
    for b, model in enumerate(batch):
        alone, loose = cai.infer(model, backend, throw=False), slack(model)
        assert alone.status == answers.statuses[b] == answers[b].status
        assert bool(answers.ok[b]) == alone.status.ok
        for name in names:
            want, what = getattr(alone, name), f"{name} of member {b}, {backend} {options}"
            rtol = 1e-12 if name in ("log_evidence", "elbo", "values") else loose
            agree(getattr(answers[b], name), want, rtol, what)
            if want is None:
                assert stacks[name] is None
            elif want.dim():
                agree(stacks[name][b, : len(want)], want, rtol, what)
            else:
                agree(stacks[name][b], want, rtol, what)
    return answers


def variations(model, seed, number=3):
    """Everything that members can differ in, rewards of 1e4 and -inf and priors with zeros among them."""
    rng = np.random.default_rng(seed)
    num_states, num_actions = model.mdp.num_states, model.mdp.num_actions
    rewards = rng.normal(size=(number, num_states, num_actions)) * rng.choice([1.0, 30.0, 1e4], size=(number, 1, 1))
    rewards[rng.random(rewards.shape) < 0.1] = -np.inf
    rewards[:, model.mdp.terminal.numpy()] = 0.0
    priors = rng.dirichlet(np.ones(num_actions), size=(number, num_states))
    starts = rng.dirichlet(np.ones(num_states), size=number)
    return {
        "reward": torch.as_tensor(rewards),
        "temperature": rng.choice([0.3, 1.0, 2.5], size=number),
        "action_prior": priors,
        "initial": starts,
        "horizon": rng.integers(1, 5, size=number).tolist(),
    }


@pytest.mark.parametrize("backend", BACKENDS[:2])
@over_seeds(range(100), quick=30)
def test_members_are_answered_as_on_their_own(backend, seeds):
    for seed in seeds:
        model = random_problem(seed).model
        given = variations(model, seed)
        names = list(given)
        chosen = {
            name: given[name] for i, name in enumerate(names) if seed % 6 == 5 or seed % 6 == i or i == seed // 6 % 5
        }
        assert_members(model.batch(**chosen), backend, ("elbo", "values"), keep="values")


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_attribute_under_every_keep(backend, keep):
    for seed in (2, 9):
        model = random_problem(seed, forbidden=False).model
        given = variations(model, seed)
        assert_members(model.batch(**given), backend, (*NUMBERS, *TABLES, "initial"), keep=keep)
        assert_members(model.batch(initial=given["initial"]), backend, (*NUMBERS, *TABLES, "initial"), keep=keep)


@pytest.mark.parametrize("reward", ["sas", "sak"])
def test_rewards_of_outcomes_that_all_share(reward):
    for seed in range(4):
        model = random_problem(seed, reward=reward).model
        given = variations(model, seed)
        for backend in BACKENDS[:2]:
            for name in ("temperature", "action_prior", "initial", "horizon"):
                assert_members(model.batch(**{name: given[name]}), backend)


def test_rewards_of_outcomes_that_members_have_of_their_own():
    model = random_problem(3, reward="sas", discount=0.9, terminals=0.0).model
    shape = (2, model.mdp.num_states, model.mdp.num_actions, model.mdp.num_states)
    rewards = np.random.default_rng(1).normal(size=shape)
    for backend in BACKENDS[:2]:
        assert_members(model.batch(reward=rewards, horizon=[2, 3]), backend)
        assert_members(model.batch(reward=[rewards[0], 0.5, lambda s, a, following, t: 1.0 * t + following]), backend)
    listed = random_problem(4, reward="sak", terminals=0.0).model
    per_outcome = np.random.default_rng(1).normal(size=(2, *listed.mdp.probabilities.shape))
    assert_members(listed.batch(reward=[OutcomeReward(table) for table in per_outcome]), "variational")


def test_numbers_and_rewards_of_time():
    model = random_problem(3, reward="sa", terminals=0.9, forbidden=False).model
    assert model.mdp.terminal.any()
    assert_members(model.batch(reward=[0.5, -1.0, 2.0]), "exact")
    timely = random_problem(12, reward="sa", discount=1.0, terminals=0.0).model.replace(
        reward=lambda s, a, following, t: 0.3 * t * (a + s), horizon=3
    )
    for given in ({"temperature": [0.5, 2.0]}, {"horizon": [1, 3]}, {"initial": timely.mdp.initial.expand(2, -1)}):
        for backend in BACKENDS[:2]:
            assert_members(timely.batch(**given), backend)


HORIZONS = {
    "over time": lambda model: TimeTableReward(torch.zeros(2, model.mdp.num_states)),
    "scheduled": lambda model: StepCost(1.0).scheduled([1.0, 2.0]),
    "of t": lambda model: lambda s, a, following, t: torch.tensor([0.1, 0.2])[t] * a,
    "restricted": lambda model: StepCost(1.0).at(times=[0, 1]),
    "shaped": lambda model: PotentialShaping(torch.ones(2, model.mdp.num_states), model.discount, 2),
}


@pytest.mark.parametrize("kind", HORIZONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_members_with_rewards_of_their_own_need_no_reward_of_the_base(kind, backend):
    """What the base earns is nobody's reward then, and need not fit the members' horizons."""
    drawn = random_problem(12, reward="sa", terminals=0.0).model
    base = drawn.replace(horizon=2)
    base = base.replace(reward=HORIZONS[kind](base))
    size = (3, base.mdp.num_states, base.mdp.num_actions)
    rewards = np.random.default_rng(2).normal(size=size)
    assert_members(base.batch(reward=rewards, horizon=[2, 4, 1]), backend)
    assert_members(base.batch(reward=list(rewards[:2, :, 0]), horizon=[5, 3], temperature=[0.5, 2.0]), backend)


def test_two_members_of_a_base_over_time():
    base = TrajectoryModel(MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0]), TimeTableReward(torch.zeros(2, 2)), horizon=2)
    answers = cai.infer(base.batch(reward=[[1.0, 0.0], [2.0, 0.0]], horizon=[2, 4]), "exact")
    agree(answers.log_evidence, torch.tensor([1.6201145069582776, 6.0876661774625305], dtype=torch.float64))


def plain(transitions, rewards, prior, discount, horizon, exact):
    """V [T + 1, S] in nats by the definitions, in loops."""
    num_states, num_actions, _ = transitions.shape
    rows = [np.zeros(num_states)]
    for _ in range(horizon):
        row = np.zeros(num_states)
        for s in range(num_states):
            total = 0.0
            for a in range(num_actions):
                if exact:
                    arrive = sum(
                        p * (discount * math.exp(v) + 1 - discount)
                        for p, v in zip(transitions[s, a], rows[-1], strict=True)
                    )
                    q = rewards[s, a] + math.log(arrive)
                else:
                    q = rewards[s, a] + discount * sum(p * v for p, v in zip(transitions[s, a], rows[-1], strict=True))
                total += prior[s, a] * math.exp(q)
            row[s] = math.log(total)
        rows.append(row)
    return np.stack(rows[::-1])


@pytest.mark.parametrize("exact", [True, False])
def test_values_are_those_of_the_definition(exact):
    rng = np.random.default_rng(5)
    transitions = rng.dirichlet(np.ones(3), size=(3, 2))
    rewards, priors = rng.normal(size=(4, 3, 2)), rng.dirichlet(np.ones(2), size=(4, 3))
    temperatures, horizons = [0.5, 1.0, 2.0, 3.0], [4, 1, 6, 2]
    model = TrajectoryModel(MDP(transitions, [1.0, 0.0, 0.0]), 0.0, 3, discount=0.8)
    batch = model.batch(reward=rewards, temperature=temperatures, action_prior=priors, horizon=horizons)
    answers = cai.infer(batch, "exact" if exact else "variational")
    for b, (temperature, horizon) in enumerate(zip(temperatures, horizons, strict=True)):
        want = plain(transitions, rewards[b] / temperature, priors[b], 0.8, horizon, exact)
        np.testing.assert_allclose(answers.values[b, :horizon], temperature * want[:-1], rtol=0, atol=1e-13)
        np.testing.assert_allclose(answers.values[b, horizon:], 0.0, rtol=0, atol=0)
        np.testing.assert_allclose(answers.elbo[b], want[0, 0], rtol=0, atol=1e-13)


def test_one_member_and_small_groups(monkeypatch):
    model = random_problem(8, forbidden=False).model
    given = variations(model, 8, number=5)
    whole = cai.infer(model.batch(**given), "exact", throw=False)
    for size in (1, 2):
        monkeypatch.setattr(batched_values, "GROUP", size)
        parts = cai.infer(model.batch(**given), "exact", throw=False)
        agree(parts.values, whole.values)
        agree(parts.log_evidence, whole.log_evidence)
    single = {name: part[:1] for name, part in given.items()}
    assert_members(model.batch(**single), "exact", (*NUMBERS, *TABLES))


@pytest.mark.parametrize("kernel", ["torch", pytest.param("native", marks=needs_native)])
def test_kernels(kernel):
    model = random_problem(6, discount=1.0).model
    given = variations(model, 6)
    assert_members(model.batch(**given), "exact", kernel=kernel, keep="values")


def test_discounts_terminals_and_bernoulli_optimality():
    for seed in range(6):
        model = random_problem(seed, discount=0.9, terminals=0.5).model.replace(optimality="bernoulli")
        assert_members(model.batch(**variations(model, seed)), "exact", (*NUMBERS, *TABLES))


def test_what_is_not_a_soft_pass_is_answered_member_by_member():
    model = random_problem(12, reward="sa", discount=0.9, terminals=0.0, forbidden=False).model
    batch = model.batch(temperature=[0.5, 1.0])
    for backend in ("max-product", "risk:eta=-1", "enumeration"):
        assert_members(batch, backend, ("elbo", "action_probs"))
    endless = model.batch(temperature=[2.0, 3.0], horizon=[math.inf, math.inf])
    assert_members(endless, "variational", ("elbo", "values", "action_probs", "believed_return"))
    mixed = cai.infer(model.batch(horizon=[math.inf, 3]), "variational")
    agree(mixed.elbo, torch.stack([mixed[0].elbo, mixed[1].elbo]))
    with pytest.raises(ValueError, match="one by one"):
        _ = mixed.values
    with pytest.raises(ValueError, match=r"member 1 of the batch: .*finite horizon"):
        cai.infer(model.batch(horizon=[3, math.inf]), "enumeration")


def test_an_impossible_member_leaves_the_others_alone():
    model = TrajectoryModel(MDP(np.full((2, 1, 2), 0.5), [1.0, 0.0]), 0.0, 3)
    rewards = torch.zeros(3, 2, 1, dtype=torch.float64)
    rewards[1] = -torch.inf
    rewards[2, 1] = -torch.inf
    batch = model.batch(reward=rewards)
    exact = assert_members(batch, "exact", (*NUMBERS, *TABLES))
    fixed = assert_members(batch, "variational", (*NUMBERS, *TABLES))
    assert exact.statuses == (Status.SUCCESS, Status.IMPOSSIBLE, Status.SUCCESS)
    assert fixed.statuses == (Status.SUCCESS, Status.IMPOSSIBLE, Status.UNAVOIDABLE)
    assert fixed.ok.tolist() == [True, False, False]
    assert "1 success, 1 impossible, 1 unavoidable" in repr(fixed)
    with pytest.raises(InferenceError, match="member 1 of 3 failed; so did 1 more") as caught:
        cai.infer(batch, "variational")
    assert isinstance(caught.value, BatchError)
    assert caught.value.posterior is caught.value.answers[1]
    agree(caught.value.answers.elbo, fixed.elbo)


# ---- gradients ------------------------------------------------------------------------------------------------------


def differentiable(seed=0, number=3):
    """(model, what is given, each requiring grad), with a reward of -inf, a dead state and large rewards."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(4), size=(4, 2))
    transitions[0, 0] = [0, 1, 0, 0]
    table = torch.as_tensor(transitions).requires_grad_()
    rewards = torch.as_tensor(rng.normal(size=(number, 4, 2)))
    rewards[0, 1, 0] = -torch.inf
    rewards[0, 2] = -torch.inf
    rewards[-1] *= 300
    given = {
        "reward": rewards.requires_grad_(),
        "action_prior": torch.as_tensor(rng.dirichlet(np.ones(2), size=(number, 4))).requires_grad_(),
        "initial": torch.as_tensor(rng.dirichlet(np.ones(4), size=number)).requires_grad_(),
    }
    return TrajectoryModel(MDP(table, [1.0, 0, 0, 0]), 0.0, 5, discount=0.9), given, table


@pytest.mark.parametrize("group", [16, 2])
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_gradients_are_those_of_the_members(backend, keep, group, monkeypatch):
    monkeypatch.setattr(batched_values, "GROUP", group)
    model, given, table = differentiable()
    batch = model.batch(**given, horizon=[5, 2, 3])
    answers = cai.infer(batch, backend, keep=keep, throw=False)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    inputs = [*given.values(), table]

    def total(bounds, values):
        bounds = torch.where(torch.isfinite(bounds), bounds, torch.zeros_like(bounds))
        values = torch.where(torch.isfinite(values), values, torch.zeros_like(values))
        return (weights * bounds).sum() + (values[..., 1:] ** 2).sum()

    got = torch.autograd.grad(total(answers.elbo, answers.values), inputs, retain_graph=True)
    alone = [cai.infer(member, backend, throw=False) for member in batch]
    padded = torch.zeros_like(answers.values)
    for b, posterior in enumerate(alone):
        padded = padded.index_put((torch.tensor(b), torch.arange(posterior.steps)), posterior.values)
    want = torch.autograd.grad(total(torch.stack([posterior.elbo for posterior in alone]), padded), inputs)
    for one, other in zip(got, want, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("keep", ["values", "evidence"])
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_gradcheck_and_again(backend, keep):
    model, given, _ = differentiable(1, number=2)
    forbidden = torch.isinf(given["reward"].detach())
    start = torch.where(forbidden, 0.0, given["reward"].detach()).clamp(-2, 2).requires_grad_()
    logits = given["action_prior"].detach().log().requires_grad_()

    def bounds(rewards, logits):
        rewards = torch.where(forbidden, -torch.inf, rewards)
        batch = model.batch(reward=rewards, action_prior=logits.softmax(-1), temperature=[0.5, 2.0], horizon=[2, 4])
        return cai.infer(batch, backend, keep=keep).elbo

    assert torch.autograd.gradcheck(bounds, (start, logits))
    assert torch.autograd.gradgradcheck(lambda *inputs: bounds(*inputs).square(), (start, logits), fast_mode=True)


def test_gradients_of_temperatures_beside_forbidden_rewards(monkeypatch):
    monkeypatch.setattr(batched_values, "GROUP", 1)
    model, given, _ = differentiable(2, number=2)
    rewards = given["reward"].detach().clamp(min=-torch.inf, max=2)

    def results(temperatures):
        answers = cai.infer(model.batch(reward=rewards, temperature=temperatures), "exact", keep="values")
        return answers.log_evidence, torch.where(torch.isfinite(answers.values), answers.values, 0.0)

    temperatures = torch.tensor([0.7, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(results, (temperatures,))
    assert torch.autograd.gradgradcheck(results, (temperatures,), fast_mode=True)


def test_gradient_of_the_evidence_is_the_expected_visits():
    model = random_problem(14, reward="sa", forbidden=False, terminals=0.0, discount=1.0).model
    rewards = variations(model, 14)["reward"].clamp(-3, 3).requires_grad_()
    answers = cai.infer(model.batch(reward=rewards), "exact")
    (slope,) = torch.autograd.grad(answers.log_evidence.sum(), rewards)
    for b, posterior in enumerate(answers):
        visits = (posterior.state_marginals[:-1, :, None] * posterior.action_probs).sum(0).detach()
        agree(model.temperature * slope[b], visits)


def test_a_batch_can_be_differentiated_as_often_as_it_is_asked():
    model = random_problem(14, reward="sa", forbidden=False, terminals=0.5).model
    rewards = variations(model, 14)["reward"].clamp(-3, 3).requires_grad_()
    batch = model.batch(reward=rewards)
    slopes = [torch.autograd.grad(cai.infer(batch, "exact").log_evidence.sum(), rewards)[0] for _ in range(2)]
    assert float(slopes[0].abs().sum()) > 0
    agree(*slopes)


def test_gradients_reach_what_is_worked_out_later_and_without_grad_nothing_is_recorded():
    model, given, _ = differentiable()
    answers = cai.infer(model.batch(**given), "exact", throw=False, keep="values")
    with torch.no_grad():
        posterior = answers[1]
    (slope,) = torch.autograd.grad(posterior.action_probs[0, 0, 0], given["reward"])
    assert float(slope[1].abs().sum()) > 0
    assert float(slope[0].abs().sum()) == float(slope[2].abs().sum()) == 0
    with torch.no_grad():
        quiet = cai.infer(model.batch(**given), "exact", throw=False)
    assert not quiet.log_evidence.requires_grad
    assert not quiet[0].values.requires_grad


# ---- what is done with the answers ----------------------------------------------------------------------------------


def small_batch():
    model = random_problem(12, reward="sa", forbidden=False, terminals=0.0).model
    return model.batch(temperature=[0.5, 1.0, 4.0], horizon=[3, 2, 1])


def test_evaluate():
    batch = small_batch()
    policies = [cai.extract_policy(posterior) for posterior in cai.infer(batch, "variational")]
    outcomes = cai.evaluate(policies, batch, num_rollouts=50, seed=3)
    for b, (policy, model) in enumerate(zip(policies, batch, strict=True)):
        alone = cai.evaluate(policy, model, num_rollouts=50, seed=3)
        for name in ("expected_return", "standard_error", "std", "cvar", "entropy", "absorbed"):
            assert getattr(outcomes, name)[b] == getattr(alone, name) == getattr(outcomes[b], name)
        agree(outcomes.returns[b], alone.returns)
        agree(outcomes.occupancy[b, : len(alone.occupancy)], alone.occupancy)
        agree(outcomes.occupancy[b, -1], alone.occupancy[-1])
    shared = cai.evaluate(policies[0], batch, num_rollouts=50, regions={"first": [0]})
    assert shared.ends_in["first"].shape == shared.visits["first"].shape == (3,)
    assert len(shared[1:]) == 2
    with pytest.raises(ValueError, match="2 policies for 3 members"):
        cai.evaluate(policies[:2], batch)
    with pytest.raises(TypeError, match="expected a Policy"):
        cai.evaluate("greedy", batch)
    with pytest.raises(TypeError, match="expected a Policy, got list"):
        cai.evaluate(policies, batch[0])


def test_compare():
    batch = small_batch()
    table = cai.compare(batch, ["exact", "variational", "z-iteration"], num_rollouts=20)
    frame = table.to_frame()
    assert frame.index.names == ["backend", "member"]
    assert frame.index.tolist() == [(name, b) for name in ("exact", "variational", "z-iteration") for b in range(3)]
    for b, model in enumerate(batch):
        alone = cai.compare(model, ["exact", "variational", "z-iteration"], num_rollouts=20)
        mine = table.member(b)
        assert [row.status for row in mine.rows] == [row.status for row in alone.rows]
        for row, other in zip(mine.rows, alone.rows, strict=True):
            for name in ("log_evidence", "elbo", "believed_return", "real_return", "luck", "policy_entropy"):
                one, two = getattr(row, name), getattr(other, name)
                assert one == two is None or one == pytest.approx(two, abs=1e-12)
        assert mine["exact"].posterior.model is model or mine["exact"].posterior.horizon == model.horizon
    plain_values = table.to_dict()
    assert [row["member"] for row in plain_values["rows"]] == [0, 1, 2] * 3
    assert [member["temperature"] for member in plain_values["members"]] == [0.5, 1.0, 4.0]
    assert '"member": 2' in table.to_json()
    for use in (lambda: table["exact"], table.plot):
        with pytest.raises(ValueError, match=r"comparison.member\(0\)"):
            use()
    with pytest.raises(ValueError, match="no members"):
        table.member(0).member(0)


# ---- the batch itself -----------------------------------------------------------------------------------------------


def test_members_are_the_models_they_stand_for():
    model = random_problem(7, reward="sa").model
    given = variations(model, 7)
    batch = model.batch(**given)
    assert isinstance(batch, ModelBatch)
    assert len(batch) == 3
    for b in range(3):
        member = batch[b]
        agree(member.mdp.initial, torch.as_tensor(given["initial"][b]))
        assert member.mdp.probabilities is model.mdp.probabilities
        want = model.replace(reward=given["reward"][b], action_prior=given["action_prior"][b])
        agree(member.reward_table(0), want.reward_table(0))
        agree(member.action_prior, want.action_prior)
        agree(batch.action_priors[b], want.action_prior)
        assert member.horizon == given["horizon"][b]
        assert member.temperature == given["temperature"][b]
    assert batch[-1].horizon == given["horizon"][-1]
    assert [member.horizon for member in batch[1:]] == given["horizon"][1:]
    assert batch[1] is batch[1]
    with pytest.raises(IndexError, match="members 0 to 2"):
        batch[3]


def test_members_in_float32():
    model = random_problem(9, reward="sa", forbidden=False).model
    given = variations(model, 9) | {"reward": variations(model, 9)["reward"].clamp(-3, 3)}
    batch = model.to(dtype=torch.float32).batch(**given)
    answers = cai.infer(batch, "exact")
    exactly = cai.infer(model.batch(**given), "exact")
    assert answers.values.dtype == answers[0].action_probs.dtype == batch[0].mdp.initial.dtype == torch.float32
    torch.testing.assert_close(answers.log_evidence.double(), exactly.log_evidence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({}, ValueError, "needs something"),
        ({"reward": np.zeros((3, 2))}, ValueError, "first axis counts the members"),
        ({"reward": np.zeros((3, 2, 3))}, ValueError, "first axis counts the members"),
        ({"reward": np.zeros((2, 3, 2, 4))}, ValueError, "member 0 of the batch: reward has shape"),
        ({"reward": np.zeros((0, 3, 2))}, ValueError, "at least one member"),
        ({"reward": 1.0}, ValueError, r"reward has shape \[\]"),
        ({"reward": [np.zeros(3), np.zeros(4)]}, ValueError, "member 1 of the batch"),
        ({"reward": [0.0, None]}, TypeError, "member 1 of the batch"),
        ({"reward": np.array([[0.0, 0, 0], [0, np.nan, 0]])}, ValueError, "member 1 of the batch: .*NaN"),
        ({"reward": np.array([[0.0, 0, np.inf]])}, ValueError, r"member 0 of the batch: .*\+inf"),
        ({"reward": np.array([[0.0, 0, 1], [0, 0, 0]])[:, ::-1].copy()}, ValueError, "member 0 .*terminal"),
        ({"temperature": 0.5}, ValueError, "what all members share"),
        ({"temperature": [1.0, 0.0]}, ValueError, "member 1 of the batch: temperature"),
        ({"temperature": [1.0, math.nan]}, ValueError, "member 1 of the batch: temperature"),
        ({"temperature": [1.0, 2.0], "horizon": [1]}, ValueError, "temperature 2, horizon 1"),
        ({"horizon": 3}, ValueError, "expected \\[B\\]"),
        ({"horizon": [1, 0]}, ValueError, "member 1 of the batch: horizon is 0"),
        ({"horizon": []}, ValueError, "at least one member"),
        ({"initial": [[0.5, 0.5]]}, ValueError, "initial has shape"),
        ({"initial": [[0.5, 0.5, 0.5]]}, ValueError, r"initial\[0\] sums to 1.5"),
        ({"action_prior": np.ones((2, 3))}, ValueError, "action_prior has shape"),
        ({"action_prior": [[0.5, 0.4]]}, ValueError, r"action_prior\[0, 0\] sums to 0.9"),
        ({"action_prior": [[0.5, 0.5], [1.0, 0.0]]}, ValueError, "member 1 of the batch: action_prior gives no mass"),
        ({"discount": [0.5]}, TypeError, "cannot differ in 'discount'"),
    ],
)
def test_refusals(given, error, match):
    transitions = np.zeros((3, 2, 3))
    transitions[:, :, 0] = 1.0
    available = np.array([[True, True], [True, True], [False, True]])
    mdp = MDP(transitions, [1.0, 0, 0], available=available, terminal=[0])
    with pytest.raises(error, match=match):
        TrajectoryModel(mdp, 0.0, 3).batch(**given)

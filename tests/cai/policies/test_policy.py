"""Policies: extraction, sampling, files, and acting in real Gymnasium environments."""

import math

import gymnasium
import pytest
import torch
from safetensors import safe_open

import cai
from cai import MDP, Policy, TrajectoryModel, extract_policy, infer
from cai.inference.core.status import Status
from cai.models import gridworld, gymnasium_model, lottery

FAILURE_RATE = 1e-6

PROBABILITIES = [0.5, 0.3, 0.2, 0.0]


def within_binomial(count, trials, p):
    """Whether neither tail of Binomial(trials, p) beyond `count` is rarer than half the failure rate."""
    if p in (0.0, 1.0):
        return count == trials * p
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * math.log(p)
        + (trials - k) * math.log1p(-p)
        for k in range(trials + 1)
    ]  # fmt: skip
    terms = [math.exp(log) for log in logs]
    return min(math.fsum(terms[: count + 1]), math.fsum(terms[count:])) > FAILURE_RATE / 2


def indifferent(num_actions=3, reward=None):
    """One step from a nonterminal to a terminal state; every action is worth the same unless a reward is given."""
    transitions = torch.zeros(2, num_actions, 2)
    transitions[:, :, 1] = 1.0
    mdp = MDP(transitions, [1.0, 0.0], terminal=[1])
    table = torch.zeros(2, num_actions) if reward is None else torch.tensor([reward, [0.0] * num_actions])
    return TrajectoryModel(mdp, table, horizon=1)


# ---- extraction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["exact", "variational", "optimistic", "enumeration"])
def test_stochastic_policy_is_the_posterior_s(backend):
    posterior = infer(lottery(), backend)
    table = extract_policy(posterior).action_probs
    torch.testing.assert_close(table, posterior.action_probs, rtol=0, atol=1e-15)  # rows are divided by their sums


def test_stochastic_is_the_default():
    posterior = infer(lottery())
    assert torch.equal(extract_policy(posterior).action_probs, extract_policy(posterior, "stochastic").action_probs)


def test_greedy_policy_takes_the_most_probable_action():
    posterior = infer(gridworld(), "variational")
    greedy = extract_policy(posterior, "greedy")
    assert set(greedy.action_probs.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(greedy.action_probs.sum(-1), torch.ones_like(greedy.action_probs[..., 0]))
    chosen = (greedy.action_probs * posterior.action_probs).sum(-1)
    torch.testing.assert_close(chosen, posterior.action_probs.max(-1).values, rtol=0, atol=1e-11)


@pytest.mark.parametrize("num_actions", [2, 3, 5])
def test_greedy_ties_go_to_the_first_action(num_actions):
    greedy = extract_policy(infer(indifferent(num_actions)), "greedy")
    assert greedy.action_probs[0].argmax(-1).tolist() == [0, 0]
    assert greedy.greedy(0) == 0


def test_greedy_ties_behind_a_worse_action_go_to_the_first_of_them():
    greedy = extract_policy(infer(indifferent(reward=[-1.0, 2.0, 2.0])), "greedy")
    assert greedy.action_probs[0, 0].tolist() == [0.0, 1.0, 0.0]


def test_greedy_sees_a_small_preference():
    greedy = extract_policy(infer(indifferent(reward=[0.0, 0.0, 1e-6])), "greedy")
    assert greedy.greedy(0) == 2


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=2"])
@pytest.mark.parametrize("size", [2.0**-10, 2.0**-38, 2.0**-41, 2.0**-60])
def test_greedy_does_not_depend_on_the_unit_of_rewards(backend, size, tmp_path):
    rewards = torch.tensor([[-1.0, -0.25, 0.0], [0.0, -0.5, 0.0], [-0.75, -0.25, -0.25]], dtype=torch.float64)
    mdp = MDP.from_successors(torch.arange(3).view(3, 1, 1).expand(3, 3, 1), torch.ones(3, 3, 1), [1.0, 0.0, 0.0])
    posterior = infer(TrajectoryModel(mdp, rewards * size, horizon=5), backend)
    posterior.save(tmp_path / "answer")
    for answer in (posterior, cai.load(tmp_path / "answer")):
        assert extract_policy(answer, "greedy").action_probs.argmax(-1).tolist() == [[2, 0, 1]] * 5


def test_greedy_ties_of_large_rewards_that_cancel_go_to_the_first():
    """q = 10.3 - 10.1 - .2 is 7e-16 away from 0, and no preference."""
    mdp = MDP.from_successors([[[1], [3]], [[2], [2]], [[3], [3]], [[3], [3]]], torch.ones(4, 2, 1), [1.0, 0, 0, 0])
    rewards = torch.tensor([[10.3, 0.0], [-10.1, -10.1], [-0.2, -0.2], [0.0, 0.0]], dtype=torch.float64)
    greedy = extract_policy(infer(TrajectoryModel(mdp, rewards, horizon=3)), "greedy")
    assert greedy.greedy(0) == 0
    swapped = infer(TrajectoryModel(mdp.from_successors([[[3], [1]], [[2], [2]], [[3], [3]], [[3], [3]]],
        torch.ones(4, 2, 1), [1.0, 0, 0, 0]), rewards.flip(-1), horizon=3))  # fmt: skip
    assert extract_policy(swapped, "greedy").greedy(0) == 0


def test_greedy_takes_the_best_of_many_actions():
    rewards = torch.zeros(1, 2000, dtype=torch.float64)
    rewards[0, -1] = 5e-7
    mdp = MDP.from_successors(torch.zeros(1, 2000, 1, dtype=torch.int64), torch.ones(1, 2000, 1), [1.0])
    assert extract_policy(infer(TrajectoryModel(mdp, rewards, horizon=1)), "greedy").greedy(0) == 1999


def test_policy_greedy_ties_go_to_the_first():
    assert Policy([[0.2, 0.4, 0.4]]).greedy(0) == 1


def test_extracted_policy_keeps_names_and_where_it_came_from():
    policy = extract_policy(infer(lottery(), "variational"), "greedy")
    assert policy.state_names == ("choice", "safe", "won", "lost")
    assert policy.action_names == ("safe", "gamble")
    assert policy.source == "variational"
    assert policy.metadata == {"kind": "greedy", "target": "fixed-dynamics", "horizon": "1"}


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'stochastic', 'greedy', 'plan'"):
        extract_policy(infer(lottery()), "random")


def test_impossible_posterior_has_no_policy():
    model = indifferent(reward=[-math.inf] * 3)
    posterior = infer(model, throw=False)
    assert posterior.status is Status.IMPOSSIBLE
    with pytest.raises(ValueError, match="holds no policy"):
        extract_policy(posterior)


# ---- tables and times --------------------------------------------------------------------------------------------


def test_table_without_time_axis_is_stationary():
    policy = Policy([[0.25, 0.75], [1.0, 0.0]])
    assert policy.stationary
    assert policy.horizon == math.inf
    assert torch.equal(policy.probs(0, t=10**9), policy.probs(0, t=0))


def test_stationary_policy_of_an_infinite_horizon():
    posterior = infer(gridworld(horizon=math.inf, discount=0.9), "variational")
    policy = extract_policy(posterior)
    assert policy.stationary
    assert policy.horizon == math.inf
    assert policy.action_probs.shape[0] == 1
    torch.testing.assert_close(policy.probs(3, t=1000), posterior.action_probs[0, 3], rtol=0, atol=1e-15)


def test_policy_reads_the_table_of_its_time():
    policy = Policy([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert policy.horizon == 2
    assert [policy.greedy(0, t) for t in (0, 1)] == [0, 1]
    assert [policy.sample(0, t) for t in (0, 1)] == [0, 1]


@pytest.mark.parametrize("t", [2, 100, -1])
@pytest.mark.parametrize("method", ["probs", "sample", "greedy"])
def test_times_outside_the_policy_are_refused(method, t):
    with pytest.raises(ValueError, match="knows steps 0 to 1"):
        getattr(Policy([[[1.0, 0.0]], [[0.0, 1.0]]]), method)(0, t)


@pytest.mark.parametrize("state", [-1, 2])
def test_states_that_do_not_exist_are_refused(state):
    with pytest.raises(ValueError, match="states 0 to 1"):
        Policy([[0.5, 0.5], [1.0, 0.0]]).probs(state)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ([[0.5, 0.6]], {}),
        ([[-0.5, 1.5]], {}),
        ([[math.nan, 1.0]], {}),
        ([0.5, 0.5], {}),
        ([[[1.0]], [[1.0]]], {"stationary": True}),
        ([[0.5, 0.5]], {"state_names": ("a", "b")}),
        ([[0.5, 0.5]], {"action_names": ("a",)}),
    ],
)
def test_bad_tables_are_refused(table, options):
    with pytest.raises(ValueError, match=r"action_probs|stationary|names"):
        Policy(table, **options)


# ---- sampling ----------------------------------------------------------------------------------------------------


def test_the_binomial_bound_can_fail():
    assert within_binomial(500, 1000, 0.5)
    assert not within_binomial(600, 1000, 0.5)
    assert not within_binomial(400, 1000, 0.5)
    assert not within_binomial(1, 1000, 0.0)


def test_samples_have_the_policy_s_frequencies():
    policy, trials = Policy([PROBABILITIES]), 3000
    generator = torch.Generator().manual_seed(1)
    drawn = [policy.sample(0, generator=generator) for _ in range(trials)]
    for action, p in enumerate(PROBABILITIES):
        assert within_binomial(drawn.count(action), trials, p)


def test_sampling_with_a_generator_repeats_and_leaves_the_global_state():
    policy, before = Policy([PROBABILITIES]), torch.get_rng_state()
    first, second = (
        [policy.sample(0, generator=generator) for _ in range(50)]
        for generator in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    )
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [7, math.inf])
def test_save_and_load_keep_everything_but_the_table(tmp_path, horizon):
    policy = extract_policy(infer(gridworld(horizon=horizon, discount=0.9), "variational"))
    path = policy.save(tmp_path / "policy.safetensors")
    assert path == tmp_path / "policy.safetensors"
    loaded = Policy.load(path)
    for name in ("stationary", "horizon", "state_names", "action_names", "source", "metadata"):
        assert getattr(loaded, name) == getattr(policy, name), name


@pytest.mark.parametrize("horizon", [7, math.inf])
def test_save_and_load_keep_the_table_to_the_last_bit(tmp_path, horizon):
    policy = extract_policy(infer(gridworld(horizon=horizon, discount=0.9), "variational"))
    loaded = Policy.load(policy.save(tmp_path / "policy.safetensors"))
    assert loaded.action_probs.dtype == torch.float64
    torch.testing.assert_close(loaded.action_probs, policy.action_probs, rtol=0, atol=0)


def test_round_trip_without_names(tmp_path):
    policy = Policy([[0.25, 0.75]], metadata={"note": "hand-written, ä"})
    loaded = Policy.load(policy.save(str(tmp_path / "p")))
    assert (loaded.state_names, loaded.action_names, loaded.source) == (None, None, "")
    assert loaded.metadata == {"note": "hand-written, ä"}


def test_the_file_is_plain_safetensors(tmp_path):
    path = Policy([[0.25, 0.75]]).save(tmp_path / "p.safetensors")
    with safe_open(str(path), framework="pt") as file:
        (name,) = file.keys()
        assert file.get_tensor(name).tolist() == [[[0.25, 0.75]]]


# ---- acting in Gymnasium -----------------------------------------------------------------------------------------


def uniform(environment):
    spaces = environment.observation_space.n, environment.action_space.n
    return Policy(torch.full(spaces, 1.0 / spaces[1], dtype=torch.float64))


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_runs_with_the_same_seed_are_the_same(name):
    environment = gymnasium.make(name)
    policy = uniform(environment)
    first, second = ([policy.run(environment, seed=seed, max_steps=60) for seed in range(8)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 1  # the seed matters


def test_run_leaves_the_global_state():
    environment, before = gymnasium.make("FrozenLake-v1"), torch.get_rng_state()
    uniform(environment).run(environment)
    uniform(environment).run(environment, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_variational_policy_always_crosses_the_firm_lake():
    environment = gymnasium.make("FrozenLake-v1", is_slippery=False)
    model = gymnasium_model("FrozenLake-v1", is_slippery=False)
    policy = extract_policy(infer(model, "variational"), "greedy")
    results = [policy.run(environment, seed=seed) for seed in range(50)]
    assert sum(total for total, _, _ in results) / len(results) == 1.0
    assert {steps for _, steps, _ in results} == {6}
    assert all(terminated for _, _, terminated in results)


def test_cold_policy_walks_along_the_cliff():
    model = gymnasium_model("CliffWalking-v1", horizon=100, temperature=0.05)
    policy = extract_policy(infer(model, "variational"), "greedy")
    assert policy.run(gymnasium.make("CliffWalking-v1"), seed=0) == (-13.0, 13, True)


def test_cold_policy_drives_the_taxi():
    model = gymnasium_model("Taxi-v4", horizon=40, temperature=0.05)
    policy = extract_policy(infer(model, "variational"), "greedy")
    for seed in range(10):
        total, steps, terminated = policy.run(gymnasium.make("Taxi-v4"), seed=seed)
        assert terminated
        assert total == 21.0 - steps  # one for each step, 20 for the last one: no wrong pickup or dropoff


def test_run_stops_after_the_policy_s_steps():
    environment = gymnasium.make("CliffWalking-v1")
    stay_up = torch.zeros(5, 48, 4)
    stay_up[..., 0] = 1.0
    assert Policy(stay_up).run(environment, seed=0) == (-5.0, 5, False)


def test_run_stops_after_max_steps():
    environment = gymnasium.make("CliffWalking-v1")
    stay_up = torch.zeros(48, 4)
    stay_up[:, 0] = 1.0
    assert Policy(stay_up).run(environment, seed=0, max_steps=3) == (-3.0, 3, False)


def test_run_stops_where_the_environment_truncates():
    environment = gymnasium.make("CliffWalking-v1", max_episode_steps=4)
    stay_up = torch.zeros(48, 4)
    stay_up[:, 0] = 1.0
    assert Policy(stay_up).run(environment, seed=0) == (-4.0, 4, False)


def test_run_in_an_environment_with_other_states_is_refused():
    with pytest.raises(ValueError, match=r"Discrete\(48\); the policy is for 1 numbered states"):
        Policy([[0.5, 0.5, 0.0, 0.0]]).run(gymnasium.make("CliffWalking-v1"), seed=0)

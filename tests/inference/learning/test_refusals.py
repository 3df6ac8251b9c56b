"""Learners refuse what cannot be learned, and say what to do."""

import math

import pytest
import torch
from refusals import check, model, refuse

import cai
from cai.inference import PathConsistency, PolicyGradient, SoftActorCritic, SoftQLearning
from cai.inference.registry import available_backends
from cai.models import MDP, TrajectoryModel, environment_model, random_mdp

LEARNERS = ("soft-q-learning", "soft-actor-critic", "policy-gradient", "path-consistency")


def program():
    """Never run."""


CASES = {
    "no steps": (lambda: SoftQLearning(steps=0), "steps is 0; expected a whole number >= 1"),
    "half a step": (lambda: PolicyGradient(steps=1e5), "steps is 100000.0; expected a whole number"),
    "no copies": (lambda: SoftQLearning(num_envs=0), "num_envs is 0"),
    "no checkpoint": (lambda: SoftQLearning(checkpoint_every=0), "checkpoint_every is 0"),
    "explore": (lambda: SoftQLearning(explore=1.5), "explore is 1.5; expected a number from 0 to 1"),
    "gradient explores": (lambda: PolicyGradient(explore=-0.5), "explore is -0.5; expected a number from 0 to 1"),
    "search": (lambda: SoftQLearning(search=2), "search is 2; expected a number from 0 to 1"),
    "search of a gradient": (lambda: PolicyGradient(search="all"), "search is 'all'; expected a number"),
    "search of an actor": (lambda: SoftActorCritic(search=-1), "search is -1; expected a number from 0 to 1"),
    "search of paths": (lambda: PathConsistency(search=1.01), "search is 1.01; expected a number from 0 to 1"),
    "lambda": (lambda: PolicyGradient(gae_lambda=-0.1), "gae_lambda is -0.1"),
    "path": (lambda: PathConsistency(path_length=0), "path_length is 0"),
    "no time": (lambda: SoftQLearning(observe_time=False), "no policy apart .* ask 'soft-actor-critic'"),
    "two targets": (lambda: SoftActorCritic(target_entropy=0.5, target_kl=0.1), "both given"),
    "target in words": (lambda: SoftActorCritic(target_entropy="much"), "target_entropy is 'much'; expected a number"),
    "nan target": (lambda: SoftActorCritic(target_entropy=math.nan), "target_entropy is nan"),
    "kl of 0": (lambda: SoftActorCritic(target_kl=0.0), "target_kl is 0.0; a KL is > 0"),
    "more than the prior": (
        lambda: cai.infer(model(), "soft-actor-critic", target_entropy=0.7),
        r"target_entropy is 0.7 nats, and the mean of log\|A\(s\)\| is 0.693147: only the prior",
    ),
    "prior": (
        lambda: cai.infer(model(action_prior=[0.3, 0.7]), "soft-actor-critic", target_entropy=0.3),
        "needs a uniform action prior.*give target_kl",
    ),
    "form of a prior": (
        lambda: cai.infer(model(action_prior=[0.3, 0.7]), "soft-q-learning", entropy_form=True),
        "entropy form needs a uniform action prior",
    ),
    "fewer steps than copies": (
        lambda: cai.infer(model(), "soft-q-learning", steps=31),
        "steps is 31, a budget over all copies, and one step of num_envs=32 copies takes more",
    ),
    "iterations": (
        lambda: cai.infer(model(), "soft-q-learning", max_iterations=5),
        "max_iterations.*its options are: steps, num_envs",
    ),
    "chance": (
        lambda: cai.infer(model(), "path-consistency"),
        "needs deterministic transitions, and action 1 in state 0 has several outcomes.*ask 'soft-q-learning'",
    ),
    "chance of rewards": (
        lambda: cai.infer(random_mdp(0, branching=2, outcome_rewards=True), "path-consistency"),
        "several outcomes",
    ),
    "average": (
        lambda: cai.infer(random_mdp(0, horizon=math.inf).replace(criterion="average"), "soft-q-learning"),
        "is about sums of rewards",
    ),
}


@refuse(CASES)
def test_refused(build, error, pattern):
    check(build, error, pattern)


@pytest.mark.parametrize("backend", LEARNERS)
def test_what_no_learner_takes(backend):
    free = MDP([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"reward of action 1 in state 0 can be -inf.*make that action unavailable"):
        cai.infer(TrajectoryModel(free, [[0.0, -math.inf], [0.0, 0.0]], horizon=3), backend)
    with pytest.raises(ValueError, match=r"horizon with discount 1 .* no end is within reach; give a discount < 1"):
        cai.infer(TrajectoryModel(free, -1.0, horizon=math.inf), backend)
    with pytest.raises(ValueError, match="works on the tables of a TrajectoryModel"):
        cai.infer(program, backend)


@pytest.mark.parametrize("option", ["explore", "search"])
@pytest.mark.parametrize("backend", LEARNERS)
def test_options_of_tables_are_refused_where_networks_learn(backend, option):
    world = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
    made = available_backends()[backend]
    with pytest.raises(ValueError, match=f"{backend}': {option} is for tables, and CartPole-v1 has none; leave it out"):
        made(**{option: 0.125}).supports(world)
    made(**{option: getattr(made(), option)}).supports(world)  # what it is without being given goes through
    made(**{option: 0.125}).supports(random_mdp(0, branching=1))


OF_NETWORKS = {
    "policy": "flow",
    "hidden_sizes": (8,),
    "batch_size": 16,
    "learning_rate": 0.1,
    "buffer_size": 500,
    "warmup_steps": 5,
    "updates_per_step": 2,
    "smoothing": 0.5,
    "clip": 0.1,
}


@pytest.mark.parametrize("backend", LEARNERS)
def test_options_of_networks_are_refused_on_tables(backend):
    for option, value in OF_NETWORKS.items():
        own = backend == "policy-gradient"
        if (option == "clip") != own and option in ("clip", "smoothing", "warmup_steps"):
            continue  # refused as such, or unknown
        with pytest.raises(ValueError, match=f"{option} is for networks, and a TrajectoryModel is learned on tables"):
            cai.infer(random_mdp(0, branching=1), backend, steps=64, **{option: value})


@pytest.mark.parametrize("option", ["explore", "search"])
@pytest.mark.parametrize("backend", ["soft-actor-critic", "policy-gradient"])
def test_who_does_not_observe_time_neither_explores_nor_searches(backend, option):
    """Both were taken, and nothing looked at them."""
    asked = {"observe_time": False, "steps": 640, option: 0.125}
    with pytest.raises(
        ValueError, match=f"{option} spreads copies over a table, and where the policy does not observe"
    ):
        cai.infer(random_mdp(0, horizon=4), backend, **asked)
    forever = random_mdp(0, horizon=math.inf, discount=0.9)  # no time is there to observe, and nothing changes
    blind, seeing = (cai.infer(forever, backend, **{**asked, "observe_time": sees}) for sees in (False, True))
    assert torch.equal(blind.action_probs, seeing.action_probs)


def test_a_module_that_nothing_would_ask_is_refused():
    """Soft Q-learning acts by Q, and a module of policy= was learned by nothing."""
    world = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
    with pytest.raises(ValueError, match="policy is a Linear, and backend 'soft-q-learning' acts by the values"):
        cai.infer(world, "soft-q-learning", policy=torch.nn.Linear(4, 2), steps=150)


def test_a_target_near_the_entropy_of_the_prior_is_warned_of():
    with pytest.warns(UserWarning, match=r"target_entropy is 0.6 nats, above 0.7 of"):
        cai.infer(model(), "soft-actor-critic", target_entropy=0.6, steps=64)

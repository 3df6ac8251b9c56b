"""Every backend says what it will take, before it takes it, and refuses what is not there."""

import ctypes
import dataclasses
import gc
import os
import random

import methods
import pyro
import pytest
import torch
from gaussian_programs import gaussian
from pyro.distributions import Categorical

import cai
from cai.inference import SequentialMonteCarlo, available_backends
from cai.inference.core.memory import check_memory
from cai.models import (
    MDP,
    TrajectoryModel,
    bridge,
    build_model,
    condition,
    double_integrator,
    environment_model,
    pendulum,
    random_mdp,
)
from cai.models.common import memory
from cai.models.common.memory import TooLarge

BACKENDS = methods.ALL + methods.SAMPLED


@pytest.mark.parametrize("name", available_backends())
def test_every_backend_has_an_estimate(name):
    assert available_backends()[name].memory


def alike(method, seed):
    """A random model whose steps are alike, so that it is made at once whatever its horizon."""
    while (model := method.problem(seed).model).reward.reads_time:
        seed += 1
    return model


@pytest.mark.parametrize("method", BACKENDS, ids=str)
@pytest.mark.parametrize("horizon", [10**12, 10**16])
def test_horizons_that_no_memory_holds_are_refused_at_once(method, horizon):
    huge = alike(method, 1).replace(horizon=horizon)
    with pytest.raises(TooLarge, match=r"takes about .* bytes\) of memory, and .* are there; "):
        cai.infer(huge, method.backend)
    row = cai.compare(huge, [method.backend]).rows[0]
    assert (row.status.label, row.posterior) == ("unsupported", None)
    assert "are there" in row.detail


@pytest.mark.parametrize("backend", ["exact", "smc", "importance", "ilqr", "aico", "mppi", "risk"])
def test_horizons_of_continuous_models_too(backend):
    with pytest.raises(TooLarge, match="are there; "):
        cai.infer(double_integrator(horizon=10**12), backend)


@pytest.mark.parametrize("method", BACKENDS, ids=str)
def test_the_bound_is_the_estimate(method, monkeypatch):
    """One byte less than is asked for is a refusal, whatever the problem; the estimate grows with the horizon."""
    monkeypatch.setattr(memory, "NEVER_LOOKED_AT", 0)
    draw = random.Random(str(method))
    for _ in range(5):
        model = alike(method, draw.randrange(10**6))
        needed = method.backend.memory(model).bytes
        assert method.backend.memory(model.replace(horizon=1000 * model.horizon)).bytes > 20 * needed
        for there, fits in ((needed - 1, False), (needed, True)):
            monkeypatch.setattr(memory, "bytes_there", lambda device, there=there: there)
            if fits:
                check_memory(method.backend, model)
                continue
            with pytest.raises(TooLarge, match=f"{needed:,} bytes"):
                cai.infer(model, method.backend, throw=False)


def test_particles_count(monkeypatch):
    for model in (bridge(), gaussian(3)):
        for backend in ("smc", "importance"):
            with pytest.raises(TooLarge, match=r"100,000,000,000 trajectories.*lower num_particles"):
                cai.infer(model, backend, num_particles=10**11)


def test_a_batch_counts_all_its_members(monkeypatch):
    batch = bridge(horizon=1000).batch(temperature=[1.0] * 50)
    one = SequentialMonteCarlo(10).memory(batch[0]).bytes
    monkeypatch.setattr(memory, "NEVER_LOOKED_AT", 0)
    monkeypatch.setattr(memory, "bytes_there", lambda device: 49 * one)
    with pytest.raises(TooLarge, match="for each of 50 members"):
        cai.infer(batch, SequentialMonteCarlo(10))


def test_tables_that_are_looked_at_later_are_refused_too(monkeypatch):
    posterior = cai.infer(bridge(horizon=100_000), keep="evidence")
    monkeypatch.setattr(memory, "bytes_there", lambda device: 10**6)
    assert float(posterior.log_evidence) < 0
    for name in ("q_values", "action_probs"):
        with pytest.raises(TooLarge, match=rf"{name} \[T, S, A\]"):
            getattr(posterior, name)
    with pytest.raises(TooLarge, match="a policy"):
        posterior.policy()


def test_a_row_whose_policy_does_not_fit_keeps_its_numbers(monkeypatch):
    monkeypatch.setattr(memory, "NEVER_LOOKED_AT", 0)
    model = bridge(horizon=100)
    monkeypatch.setattr(memory, "bytes_there", lambda device: 100 * 22 * 8 * 4)
    row = cai.compare(model, ["exact"]).rows[0]
    assert row.log_evidence == pytest.approx(float(cai.infer(model).log_evidence))
    assert row.outcome is None
    assert "a policy [T, S, A], T = 100, takes about" in row.detail


def test_rollouts_and_samples_count():
    model = bridge()
    posterior = cai.infer(model)
    with pytest.raises(TooLarge, match="chains side by side"):
        cai.evaluate(posterior.policy(), model, num_rollouts=10**13)
    with pytest.raises(TooLarge, match="trajectories of 20 steps"):
        posterior.sample(10**12)


def grown(call):
    """The most bytes that a call takes, in a process of its own; of Linux."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # pages that earlier tests have freed would be taken without growing
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            before = resident("VmRSS")
            call()
            os.write(writes, str(resident("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        said = file.read()
    os.waitpid(child, 0)
    return int(said)


def resident(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


LARGE = {
    "exact": {},
    "variational": {},
    "optimistic": {},
    "max-product": {},
    "risk": {"eta": -1.0},
    "value-iteration": {},
    "boltzmann": {},
    "one-step-entropy": {},
    "smc": {"num_particles": 2000},
    "importance": {"num_particles": 2000},
}


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("name", LARGE)
def test_estimates_are_of_the_size_of_what_is_taken(name):
    soft = name in ("exact", "variational", "optimistic")
    model = random_mdp(num_states=400, num_actions=4, horizon=20_000 if soft else 1000)
    cai.infer(random_mdp(horizon=2), name, throw=False, **LARGE[name])  # what is loaded once does not count
    asked = cai.inference.registry.make_backend(name, **LARGE[name]).memory(model).bytes
    taken = grown(lambda: cai.infer(model, name, throw=False, **LARGE[name])) - 2**25  # libraries' own working memory
    assert 0.25 * asked < taken < 1.25 * asked


def test_dense_dynamics_of_an_answer_are_refused_as_of_a_process():
    """Whatever `dense()` refuses, `dynamics(t)` does: 80 TB here."""
    size = 10**6
    ahead = torch.stack([torch.arange(size), (torch.arange(size) + 1) % size], -1)[:, None]
    mdp = MDP.from_successors(ahead, torch.full((size, 1, 2), 0.5, dtype=torch.float64), 0)
    answer = cai.infer(TrajectoryModel(mdp, 0.0, horizon=2), "variational", keep="evidence")
    for ask, instead in ((mdp.dense, "next_states"), (lambda: answer.dynamics(1), r"outcomes\(1\)")):
        with pytest.raises(TooLarge, match=rf"8\.0 TB.* of memory, and .* are there; .*{instead}"):
            ask()


def test_names_of_several_backends_belong_to_compare():
    for names in (["exact", "variational"], ("exact",), {"exact"}):
        with pytest.raises(TypeError, match=r"cai\.compare\(model"):
            cai.infer(bridge(), names)


def test_a_batch_is_conditioned_member_by_member():
    batch = bridge(horizon=2).batch(temperature=[1.0, 2.0])
    with pytest.raises(TypeError, match="members one by one"):
        condition(batch, {"a_1": 1})
    assert len([condition(member, {"a_1": 1}) for member in batch]) == 2


# Options of which nothing is held: numbers of steps that are taken one after the other, and a lookahead, which ends at
# the horizon.
ONE_BY_ONE = {"max_iterations", "steps", "checkpoint_every", "warmup_steps", "lookahead", "path_length"}
OF_NETWORKS = {"hidden_sizes", "batch_size", "buffer_size", "num_particles", "particle_sets", "value_samples"}


def sizes_of(name):
    """Every option of a backend that is a whole number or a tuple of them, but for those above."""
    hints = {field.name: str(field.type) for field in dataclasses.fields(available_backends()[name])}
    return [option for option, hint in hints.items() if "int" in hint and option not in ONE_BY_ONE]


def asked(name, option):
    """A question with one option far too large, and what belongs to it."""
    learner = hasattr(available_backends()[name], "steps")
    if learner and option in OF_NETWORKS:
        box = name == "stein-soft-q-learning"
        world = environment_model("Pendulum-v1" if box else "CartPole-v1", discount=0.9, temperature=1.0)
        further = {"batch_size": {"buffer_size": HUGE, "steps": HUGE}, "buffer_size": {"steps": HUGE}}.get(option, {})
        further = {"batch_size": HUGE} if option == "particle_sets" else further
        further |= {"buffer_size": HUGE} if option == "particle_sets" else {}
        return world, {option: (HUGE,) if option == "hidden_sizes" else HUGE} | further
    if learner:
        return build_model("three-paths"), {option: HUGE, "steps": HUGE}
    further = {"gradient": "sampled"} if name == "restricted" and option != "restarts" else {}
    return pendulum() if name in ("ilqr", "mppi") else bridge(horizon=5), {option: HUGE} | further


HUGE = 10**9
SIZES = [(name, option) for name in available_backends() for option in sizes_of(name)]


def test_there_are_sizes():
    assert {("restricted", "restarts"), ("ilqr", "restarts"), ("soft-q-learning", "num_envs")} <= {*SIZES}


@pytest.mark.parametrize(("name", "option"), SIZES)
def test_an_option_that_no_memory_holds_is_refused(name, option):
    model, options = asked(name, option)
    if name == "stein-soft-q-learning" and option == "num_envs":
        model = environment_model("Pendulum-v1", discount=0.9, temperature=1.0)
    with pytest.raises(
        TooLarge, match=rf"backend '{name}' needs .*; that takes about .* and .* are there; (lower|give)"
    ):
        cai.infer(model, name, **options)


def test_a_fit_over_too_many_steps_is_refused_before_its_parameters_are_made():
    with pytest.raises(TooLarge, match=r"backend 'restricted' needs .* a shorter horizon"):
        cai.infer(pendulum(horizon=10**9), "restricted")


def endless(model):
    return model.replace(horizon=float("inf"), discount=0.9)


DRAWS = {
    "evaluate": lambda n: cai.evaluate(cai.infer(bridge()).policy(), bridge(), num_rollouts=n),
    "evaluate without end": lambda n: cai.evaluate(
        cai.infer(endless(bridge())).policy(), endless(bridge()), num_rollouts=n
    ),
    "evaluate Gaussian": lambda n: cai.evaluate(
        cai.infer(double_integrator()).policy(), double_integrator(), num_rollouts=n
    ),
    "evaluate program": lambda n: cai.evaluate(cai.infer(WALK, "enumeration").policy(), WALK, num_rollouts=n),
    "sample": lambda n: cai.infer(bridge()).sample(n),
    "sample enumeration": lambda n: cai.infer(bridge(horizon=2), "enumeration").sample(n),
    "sample particles": lambda n: cai.infer(gaussian(3), "smc", throw=False).sample(n),
    "sample Gaussian": lambda n: cai.infer(double_integrator()).sample(n),
    "rollout": lambda n: double_integrator().rollout(cai.infer(double_integrator()).policy(), n, torch.Generator()),
    "compare": lambda n: raised(cai.compare(bridge(), ["exact"], num_rollouts=n).rows[0].detail),
}


def raised(detail):
    raise TooLarge(detail)


def WALK():
    half = torch.tensor([0.5, 0.5])
    pyro.sample("s_1", Categorical(half))
    action = pyro.sample("a_1", Categorical(half))
    pyro.factor("O_1", -1.0 * action)
    pyro.sample("s_2", Categorical(half))


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("number", [3 * 10**9, 10**13])
def test_draws_that_no_memory_holds_are_refused(name, number):
    with pytest.raises(
        TooLarge, match=r"(chains side by side|trajectories of \d+ steps): that takes about .* ask for fewer"
    ):
        DRAWS[name](number)

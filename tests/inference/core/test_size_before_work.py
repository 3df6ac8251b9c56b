"""Every backend says what it will take, before it takes it, and refuses what is not there."""

import ctypes
import gc
import os
import random

import methods
import pytest
import torch
from gaussian_programs import gaussian

import cai
from cai.inference import SequentialMonteCarlo, available_backends
from cai.inference.core.memory import check_memory
from cai.models import MDP, TrajectoryModel, bridge, double_integrator, random_mdp
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

"""The benchmarks measure what they say: the workloads, the peers' jobs, the arithmetic. Nothing is timed."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import cai
from cai.models import bridge

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the package

from benchmarks import dense, filtering, machine, peers, planning
from benchmarks.busy import SETTLE, BusyCore, one_thread
from benchmarks.contenders import NotOffered, library_contenders, make_model
from benchmarks.elsewhere import numbers_of
from benchmarks.floor import bytes_moved
from benchmarks.scaling import fitted_slope
from benchmarks.suite import first_step, run_workload
from benchmarks.targets import judge
from benchmarks.timing import Sample, interleave, slope
from benchmarks.workloads import WORKLOADS, Workload, dense_workload, grid_workload, make_workload


def tiny_workloads() -> list[Workload]:
    return [
        dense_workload(7, 3, 4),
        grid_workload(3, 4, 4, 5),
        grid_workload(4, 3, 3, 6, at_random=True),
    ]


def dense_table(workload: Workload) -> np.ndarray:
    if workload.next_states is None:
        return workload.probabilities
    table = np.zeros((workload.num_states, workload.num_actions, workload.num_states))
    for state, action, outcome in np.ndindex(*workload.probabilities.shape):
        table[state, action, workload.next_states[state, action, outcome]] += workload.probabilities[
            state, action, outcome
        ]
    return table


def plain_values(workload: Workload, reward: np.ndarray, job: str) -> np.ndarray:
    """[T, S] by the equations of DESIGN section 2 with a uniform prior; "hard" is the maximum of Q."""
    table, values = dense_table(workload), np.zeros((workload.horizon + 1, workload.num_states))
    for t in reversed(range(workload.horizon)):
        expected = np.log(table @ np.exp(values[t + 1])) if job == "exact" else table @ values[t + 1]
        q_values = reward + expected
        values[t] = q_values.max(1) if job == "hard" else np.log(np.exp(q_values).mean(1))
    return values[:-1]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_a_process_with_its_horizon_and_seeded_arrays(name):
    workload, again = make_workload(name, quick=True), make_workload(name, quick=True)
    assert workload.name == name
    np.testing.assert_allclose(workload.probabilities.sum(-1), 1.0, atol=1e-12)
    assert workload.probabilities.min() >= 0
    np.testing.assert_array_equal(workload.probabilities, again.probabilities)
    np.testing.assert_array_equal(workload.reward, again.reward)
    assert workload.reward.max() <= 0
    assert workload.reward.min() > -1
    if workload.next_states is not None:
        assert workload.next_states.shape == workload.probabilities.shape
        assert workload.next_states.min() >= 0
        assert workload.next_states.max() < workload.num_states
    assert (workload.batch > 1) == (name == "E")
    assert workload.gradient == (name == "D")


def test_the_sizes_are_those_of_the_titles():
    shapes = {name: make_workload(name) for name in ("A", "B", "D", "E")}
    assert shapes["A"].probabilities.shape == (1000, 4, 1000)
    assert shapes["A"].horizon == 50
    assert shapes["B"].probabilities.shape == (10_000, 4, 4)
    assert shapes["B"].horizon == 200
    assert shapes["E"].reward.shape == (64, 10_000, 4)
    np.testing.assert_array_equal(shapes["D"].next_states, shapes["B"].next_states)
    with pytest.raises(ValueError, match="no workload is called 'G'"):
        make_workload("G")


def test_a_grid_leads_to_the_neighbours_and_stays_inside():
    grid = grid_workload(3, 4, 4, 5)
    inner = 1 * 4 + 1
    up, down, left, right = inner - 4, inner + 4, inner - 1, inner + 1
    for action, (ahead, behind) in enumerate([(up, down), (down, up), (left, right), (right, left)]):
        successors = grid.next_states[inner, action]
        assert successors[0] == ahead
        assert successors[3] == behind
        assert set(successors) == {up, down, left, right}
    assert grid.next_states[0, 0, 0] == 0  # up from the corner
    wide = grid_workload(9, 9, 12, 5)
    assert len(set(wide.next_states[40, 2])) == 12  # all different, away from the border


def test_random_successors_reach_far():
    near, far = grid_workload(30, 30, 3, 5), grid_workload(30, 30, 3, 5, at_random=True)
    states = np.arange(900)[:, None, None]
    assert np.abs(near.next_states - states).max() == 30
    assert np.abs(far.next_states - states).mean() > 200  # 300 is expected
    assert far.title == f"{near.title}, successors at random"


def test_bytes_are_counted_as_stated():
    dense, grid = dense_workload(10, 2, 3), grid_workload(5, 4, 3, 7)
    assert bytes_moved(dense) == 3 * 8 * (10 * 2 * 10 + 10 * 2 + 2 * 10)
    assert bytes_moved(grid) == 7 * (20 * 4 * 3 * (4 + 8) + 8 * (20 * 4 + 2 * 20))
    batch, one = make_workload("E", quick=True), make_workload("B", quick=True)
    pairs = 400 * 4
    assert bytes_moved(batch) == 20 * (pairs * 4 * 12 + 8 * 8 * (pairs + 800))
    assert bytes_moved(make_workload("D", quick=True), "gradient") == 2 * bytes_moved(one)
    assert batch.value_bytes == 8 * one.value_bytes == 8 * 8 * 20 * 400


@pytest.mark.parametrize("workload", tiny_workloads(), ids=lambda w: w.title)
def test_the_library_and_its_peers_do_the_same_job(workload):
    contenders = [*library_contenders(workload), *peers.peer_contenders(workload)]
    checked = 0
    for contender in contenders:
        if contender.name not in ("cai", "scipy"):
            continue
        values = contender.read(contender.prepare(workload)())
        reference = plain_values(workload, workload.reward, contender.job)
        np.testing.assert_allclose(values, reference, atol=1e-12, err_msg=f"{contender.name}: {contender.job}")
        checked += 1
    assert checked == 4


@pytest.mark.parametrize("workload", tiny_workloads(), ids=lambda w: w.title)
@pytest.mark.parametrize("exact", [False, True])
def test_jax_does_the_same_job(workload, exact):
    pytest.importorskip("jax")
    values = np.asarray(peers.jax_values(workload, exact)())
    reference = plain_values(workload, workload.reward, "exact" if exact else "fixed")
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, reference, atol=1e-12)


def test_jax_differentiates_the_same_evidence():
    pytest.importorskip("jax")
    workload = make_workload("D", quick=True)
    own = library_contenders(workload)[0]
    other = peers.peer_contenders(workload)[0]
    ours, theirs = (contender.read(contender.prepare(workload)()) for contender in (own, other))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("workload", tiny_workloads(), ids=lambda w: w.title)
def test_quantecon_finds_the_hard_maximum_of_the_same_problem(workload):
    pytest.importorskip("quantecon")
    values, policy = peers.quantecon_values(workload)()
    np.testing.assert_allclose(values[:-1], plain_values(workload, workload.reward, "hard"), atol=1e-12)
    assert policy.shape == (workload.horizon, workload.num_states)


@pytest.mark.parametrize("workload", tiny_workloads(), ids=lambda w: w.title)
def test_imitation_runs_the_soft_recursion_in_its_entropy_form(workload):
    pytest.importorskip("imitation")
    values, _, _ = peers.imitation_values(workload)()
    reward = workload.reward[:, :1].repeat(workload.num_actions, 1) + math.log(workload.num_actions)
    np.testing.assert_allclose(values, plain_values(workload, reward, "fixed"), atol=1e-12)


def test_imitation_is_not_asked_for_a_table_that_does_not_fit():
    with pytest.raises(NotOffered, match="dense tables only"):
        peers.imitation_values(grid_workload(300, 300, 3, 2))


def test_the_gradient_of_the_evidence_is_that_of_a_finite_difference():
    workload = make_workload("D", quick=True)
    gradient = library_contenders(workload)[0]
    result = gradient.read(gradient.prepare(workload)())
    assert result.shape == workload.reward.shape
    step, place = 1e-5, (37, 2)
    evidence = []
    for sign in (1, -1):
        reward = workload.reward.copy()
        reward[place] += sign * step
        first = plain_values(workload, reward, "exact")[0]
        evidence.append(np.log(workload.initial @ np.exp(first)))
    # central differences: 1e-10 of truncation, 1e-16 * 10 / 1e-5 of rounding
    assert result[place] == pytest.approx((evidence[0] - evidence[1]) / (2 * step), abs=1e-9)
    np.testing.assert_array_equal(first_step(result, workload), result)


def test_the_first_step_is_read_from_a_result_and_a_batch():
    workload = grid_workload(2, 3, 2, 4)
    array = np.arange(4 * 6.0).reshape(4, 6)
    np.testing.assert_array_equal(first_step(array, workload), array[0])
    np.testing.assert_array_equal(first_step(np.stack([array, -array]), workload), np.stack([array[0], -array[0]]))


def test_the_loop_of_a_lecture_and_the_library_give_the_same_values_of_the_bridge():
    workload = make_workload("F")
    contenders = [
        c for c in (*library_contenders(workload), *peers.peer_contenders(workload)) if c.name != "cai, torch"
    ]
    found = {(c.name, c.job): first_step(c.read(c.prepare(workload)()), workload) for c in contenders}
    assert set(found) == {("cai", "exact"), ("cai", "statistics"), ("loop", "exact")}
    expected = cai.infer(bridge(), "exact").values[0].numpy()
    for values in found.values():
        np.testing.assert_allclose(values, expected, atol=1e-12)


def test_a_model_of_a_workload_is_the_same_problem():
    workload = grid_workload(2, 3, 3, 4)
    model = make_model(workload)
    np.testing.assert_allclose(model.mdp.dense().numpy(), dense_table(workload), atol=1e-15)
    assert model.horizon == 4


def test_slopes_and_ratios_of_known_numbers():
    sizes = [1.0, 10.0, 100.0]
    assert slope(sizes, [5.0, 50.0, 500.0]) == pytest.approx(1.0, abs=1e-12)
    assert slope(sizes, [1.0, 100.0, 10_000.0]) == pytest.approx(2.0, abs=1e-12)
    assert slope(sizes, [3.0, 3.0, 3.0]) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="two different sizes"):
        slope([1.0, 1.0], [2.0, 3.0])
    with pytest.raises(ValueError, match="positive"):
        slope([1.0, 2.0], [0.0, 3.0])
    sample = Sample((1.0, 4.0, 2.0, 3.0, 100.0))
    assert sample.median == 3.0
    assert sample.quartiles == (2.0, 4.0)
    assert sample.ratio(Sample((6.0,))) == 0.5


def test_the_slope_of_a_curve_is_that_of_most_rounds():
    """Two of five rounds were disturbed; sizes that are not fitted do not count, nor do rounds that only some had."""
    small = Sample((9.0, 1.0, 1.0, 1.0, 1.0, 77.0))
    middle = Sample((2.0, 2.0, 2.0, 2.0, 40.0))
    large = Sample((4.0, 4.0, 400.0, 4.0, 4.0))
    assert fitted_slope([1, 2, 4], [small, middle, large], [True, True, True]) == pytest.approx(1.0, abs=1e-12)
    assert fitted_slope([1, 2, 4], [small, middle, large], [False, True, True]) == pytest.approx(1.0, abs=1e-12)


def test_the_allocator_is_changed_once_and_not_for_what_measures_memory(monkeypatch):
    started = []
    monkeypatch.setattr(machine.os, "execv", lambda program, arguments: started.append(arguments))
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv(machine.TUNABLES, raising=False)
    machine.keep_memory()
    machine.keep_memory()
    assert started == [sys.orig_argv]
    with machine.usual_memory():
        assert machine.TUNABLES not in os.environ
    assert os.environ[machine.TUNABLES] == machine.KEEPING


def test_calls_take_turns_within_their_budgets():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("quick", "slow", "endless")}
    samples = interleave(calls, {"quick": 0.01, "slow": 2.0, "endless": 1000.0}, rounds=5, budget=4.0)
    assert {name: len(sample.seconds) for name, sample in samples.items()} == {"quick": 20, "slow": 2, "endless": 1}
    assert set(order[:3]) == {"quick", "slow", "endless"}
    assert set(order[3:5]) == {"quick", "slow"}
    assert samples["slow"].first == 2.0


def test_a_call_runs_within_what_is_around_it():
    order = []

    @contextlib.contextmanager
    def around():
        order.append("begin")
        yield
        order.append("end")

    calls = {name: (lambda name=name: order.append(name)) for name in ("bare", "within")}
    interleave(calls, dict.fromkeys(calls, 1.0), rounds=2, budget=2.0, around={"within": around})
    assert order.count("bare") == order.count("within") == 2
    places = [place for place, name in enumerate(order) if name == "within"]
    assert all(order[place - 1] == "begin" and order[place + 1] == "end" for place in places)


def test_a_core_is_held_while_it_is_asked_for():
    def used(process):
        times = process.cpu_times()
        return times.user + times.system

    psutil = pytest.importorskip("psutil")
    with BusyCore() as busy:
        process = psutil.Process(busy._process.pid)
        with busy.running():
            deadline = time.monotonic() + 60  # neighbours may leave it little
            while used(process) < 0.05 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert used(process) >= 0.05
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        before = used(process)
        time.sleep(0.05)
        assert used(process) == before
    assert not process.is_running()


def test_one_thread_is_for_a_while():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_every_condition_is_entered_as_long_after_the_last_call(monkeypatch):
    """A short call that follows another at once takes half as long, and must not be held against one that waited."""
    waits = {}

    def watched(calls, first, *, around, **_):
        for name, condition in around.items():
            begun = time.perf_counter()
            with condition():
                waits[name] = time.perf_counter() - begun
        return {name: Sample((1.0,), 1.0) for name in around}

    monkeypatch.setattr("benchmarks.suite.interleave", watched)
    monkeypatch.setattr("benchmarks.suite.make_triad", lambda: float)
    monkeypatch.setattr("benchmarks.suite.peer_contenders", lambda workload: [])
    run_workload("F", quick=True)
    assert {condition for _, condition in waits} == {"", "busy", "one_thread"}
    assert min(waits.values()) >= SETTLE


def test_targets_are_those_of_the_defaults_and_missed_ones_are_shown():
    def row(contender, job, median, one_thread=None, busy=None):
        return {
            "contender": contender,
            "job": job,
            "median_s": median,
            "one_thread_s": median if one_thread is None else one_thread,
            "busy_s": median if busy is None else busy,
        }

    results = {
        "A": {"one_thread_floor_s": 1.0, "rows": [row("cai", "fixed", 1.2), row("cai", "exact", 1.3)]},
        "B": {
            "floor_s": 1.0,
            "rows": [
                row("cai", "fixed", 0.8, one_thread=0.6, busy=0.9),
                row("cai, torch", "fixed", 0.1),
                row("cai", "exact", 1.0),
                row("quantecon", "fixed", 1.0),
                row("scipy", "fixed", 0.5),
            ],
        },
        "C": {"floor_s": 1.0, "rows": [row("cai", "fixed", 0.6), row("quantecon", "fixed", None)]},
        "D": {"floor_s": 1.0, "rows": [row("cai", "gradient", 3.0), row("cai", "exact", 1.0)]},
        "E": {"one_thread_floor_s": 2.0, "rows": [row("cai", "fixed", 5.0)]},
        "F": {
            "floor_s": 1.0,
            "rows": [row("cai", "exact", 0.9), row("cai", "statistics", 3.1), row("loop", "exact", 1.0)],
        },
    }
    memory = [
        {"workload": "C", "contender": name, "job": "fixed", "first_bytes": 14, "later_bytes": 11, "value_bytes": 10}
        for name in ("cai", "jax")
    ]
    curves = [{"axis": "S", "slopes": {"fixed": 0.96, "exact": 1.06}}]
    judged = {entry["target"]: (round(entry["value"], 6), entry["met"]) for entry in judge(results, memory, curves)}
    busy = {target: entry for target, entry in judged.items() if "one core busy" in target}
    assert busy.pop("B, fixed: one core busy, over one thread") == (1.5, False)
    assert set(busy.values()) == {(1.0, True)}
    assert len(busy) == 9
    assert {target: entry for target, entry in judged.items() if "one core busy" not in target} == {
        "A, fixed: cai over the floor, one thread each": (1.2, True),
        "A, exact: cai over the floor, one thread each": (1.3, False),
        "B, fixed: cai on one thread over quantecon": (0.6, True),
        "B, fixed: cai on one thread over a loop with a CSR product": (1.2, False),
        "B: cai exact over cai fixed": (1.25, False),
        "D: gradient over the value pass": (3.0, False),
        "E, fixed: cai over the batch's floor, one thread each": (2.5, True),
        "F, exact: cai over the loop of a lecture": (0.9, True),
        "F, statistics: cai over the loop of a lecture": (3.1, False),
        "C, fixed, cai: memory added over that of the values": (1.4, True),
        "slope in S, fixed: distance from 1": (0.04, True),
        "slope in S, exact: distance from 1": (0.06, False),
    }


def test_the_loops_that_planning_is_timed_beside_do_the_same():
    """One step of each on the same numbers: the mean of a bundle, and the cheapest neighbour of a trajectory."""
    loop = planning.LoopedPendulum()
    model = cai.models.build_model("pendulum", temperature=1.0)
    options = {"num_samples": 40, "lookahead": 100, "noise": planning.NOISE, "correlation": 0.0}
    sampler = dataclasses.replace(cai.inference.PathIntegral(**options).sampler(model), scales=(1.0,))
    plan = torch.linspace(-1, 1, 100).double()[:, None]
    bundle = sampler.draw(sampler.problem.start, plan, 0, torch.Generator().manual_seed(0))
    moved = loop.path_integral(plan[:, 0].numpy(), (bundle.actions - plan)[..., 0].numpy(), 1.0)
    np.testing.assert_allclose(bundle.plan[:, 0].numpy(), moved, atol=1e-9)
    search = cai.inference.IterativeLQR(restarts=1).learner(model)
    state = search.init(model, seed=0)
    following, _ = search.step(state)
    states, cost = loop.rollout(state.actions[0, :, 0].numpy())
    assert float(state.costs[0]) == pytest.approx(float(cost))
    _, actions, lowest = loop.improved(states, state.actions[0, :, 0].numpy())
    np.testing.assert_allclose(following.actions[0, :, 0].numpy(), actions, rtol=1e-6, atol=1e-8)
    assert float(following.costs[0]) == pytest.approx(lowest)


def test_planning_is_measured_in_turns():
    rows = planning.measured(1)
    assert {(row["work"], row["contender"]) for row in rows} >= {("MPPI step", "cai"), ("iLQR iteration", "loop")}
    assert all(row["ms"] > 0 for row in rows)


def test_quadratic_messages_are_timed_beside_loops_that_agree():
    from benchmarks.gaussian import run

    found = run(quick=True, rounds=1)
    assert found["difference"] < 1e-9
    assert {row["job"] for row in found["ratios"]} >= {"gains over the numpy loop", "exact over fixed dynamics"}
    assert all(row["ratio"] > 0 for row in found["ratios"])


def test_learners_are_measured_and_absent_peers_are_named(tmp_path):
    from benchmarks import learning

    job = learning.Job("Pendulum-v1", 8, 16, 2.0)
    times = learning.step_times(job, rounds=1)
    assert times["cai"] > 0
    told = learning.returns(job, seeds=1, steps=120, episodes=2)
    world = cai.models.environment_model("Pendulum-v1", discount=0.99, temperature=1.0)
    again = cai.infer(world, "soft-actor-critic", steps=120, **job.options())
    assert told["cai"] == [cai.evaluate(again.policy(), world, episodes=2).deterministic_return.mean]
    if importlib.util.find_spec("stable_baselines3") is None:
        assert times[learning.PEER] == told[learning.PEER] == "not here: No module named 'stable_baselines3'"
    else:
        assert times[learning.PEER] > 0
        assert len(told[learning.PEER]) == 1
    learning.draw({"steps": 120, "step_times": {"a job": times}, "returns": told}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_largest_divergence_of_a_learned_policy_is_found():
    from benchmarks import learning

    model = cai.models.random_mdp(3, horizon=math.inf, discount=0.9)
    answer = cai.infer(model, "soft-q-learning", steps=3200, explore=1.0)
    best = cai.infer(model, "variational")
    rows = [
        sum(float(p * math.log(p / w)) for p, w in zip(found, wanted, strict=True))
        for found, wanted in zip(answer.action_probs[0], best.action_probs[0], strict=True)
    ]
    assert learning.largest_divergence(model, 3200) == pytest.approx(max(rows), rel=1e-9)


def test_walks_to_goals_are_counted():
    from benchmarks import learning

    shares = learning.goal_shares(0, steps=120, warmup_steps=100)
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) < 0.97  # so few steps reach next to nothing


def test_dense_problems_are_timed_beside_a_solve():
    rows = dense.measure(12, 2)
    assert len(rows) == len(dense.BACKENDS) * len(dense.DISCOUNTS)
    for row in rows:
        assert row["status"] == "success", row
        assert row["error_bound"] <= 1e-8, row
        assert 0 < row["seconds"] < 60, row


@pytest.mark.parametrize("run", filtering.RUNS.items())
def test_a_filter_and_the_loop_beside_it_have_the_same_beliefs(run):
    row = filtering.measure(*run, rounds=1)
    assert row["apart"] < 1e-12
    assert row["ratio"] == row["cai"] / row["loop"] > 0


def test_another_interpreter_is_asked_for_numbers_until_it_ends():
    program = "import sys\nfor _, number in zip(sys.stdin, [1.5, 2.5]):\n    print(number, flush=True)"
    with numbers_of([sys.executable, "-c", program]) as ask:
        assert [ask(), ask()] == [1.5, 2.5]
        with pytest.raises(RuntimeError, match="has ended; run it to see why"):
            ask()

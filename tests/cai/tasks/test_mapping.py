"""The same rows to the last bit from any map: built in, threads, other processes; and what is no map is refused.

New processes take seconds to import torch: what runs in them is a campaign, and `pickled` stands for them elsewhere.
"""

import concurrent.futures
import functools
import multiprocessing
import pickle
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from tasks_bits import bits
from tasks_maps import disordered, one_by_one, pickled, threads_map

import cai
from cai.inference.core.progress import progress
from cai.models import TrajectoryModel, bridge, environment_model, lottery
from cai.tasks.chunks import CHUNKS, Chunks, chunked, unpacked
from cai.tasks.mapping import run_tasks

BACKENDS = ["exact", "risk:eta=-2", "variational", "optimistic", "smc:num_particles=50", "restricted", "max-product"]


@pytest.fixture(scope="module")
def spawned():
    """Two new processes, which share nothing with this one."""
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def alone():
    return cai.compare(bridge(), BACKENDS, num_rollouts=100)


@pytest.mark.parametrize("map", [threads_map, disordered, pickled])
def test_rows_are_the_same_bits_from_any_map(map, alone):
    assert bits(cai.compare(bridge(), BACKENDS, num_rollouts=100, map=map).rows) == bits(alone.rows)


@pytest.mark.campaign
def test_rows_are_the_same_bits_from_other_processes_and_hold_the_model_that_was_asked(spawned, alone):
    model = bridge()
    found = cai.compare(model, BACKENDS, num_rollouts=100, map=functools.partial(spawned.map, chunksize=2))
    assert bits(found.rows) == bits(alone.rows)
    assert all(row.posterior.model is model for row in found.rows if row.posterior is not None)
    sweeps = [
        cai.sweep("lottery", "risk", eta=2.0, model_options={"temperature": [0.5, 1.0]}, seeds=[4, 1], map=map)
        for map in (one_by_one, spawned.map)
    ]
    assert bits(sweeps[0].comparison.rows) == bits(sweeps[1].comparison.rows)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_task_has_one_thread_and_leaves_the_number_as_it_was(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert run_tasks(_threads, [0, 1], label="", map=threads_map) == [1, 1]
        assert run_tasks(_threads, [0], label="") == [1]
        assert torch.get_num_threads() == threads
        seen = []
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [threads]
    finally:
        torch.set_num_threads(before)


def _threads(item):
    return torch.get_num_threads()


def _double(item):
    return 2 * item


@pytest.mark.parametrize("number", [0, 1, CHUNKS, CHUNKS + 1, 1000])
def test_chunks_hold_every_item_once_in_order(number):
    chunks = chunked(range(number))
    assert [item for _, items in chunks for item in items] == list(range(number))
    assert [place for place, _ in chunks] == list(range(len(chunks)))
    assert len(chunks) <= CHUNKS
    assert run_tasks(_double, range(number), label="", map=disordered) == [2 * i for i in range(number)]


def test_what_both_sides_hold_is_not_sent_back():
    class Held:
        held = (lottery(),)

        def __call__(self, item):
            return self.held[0]

    function = Held()
    away = Chunks(function, whole=False, home=("elsewhere", 0))
    _, packed = away((0, (1,)))
    assert len(packed) < 100 < len(pickle.dumps(function.held[0]))
    assert unpacked(packed, function)[0] is function.held[0]


def test_no_bar_is_shown_by_a_process_that_works_for_another(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("cai.inference.core.progress._terminal_bar", lambda total, text: iter(["bar"]))
    assert list(progress(1, "")) == ["bar"]
    assert Chunks(_bars, whole=False)((0, (1,)))[1] == [["bar"]]
    assert unpacked(Chunks(_bars, whole=False, home=("elsewhere", 0))((0, (1,)))[1], _bars) == [[0]]


def _bars(item):
    return list(progress(1, ""))


@pytest.mark.parametrize(
    ("map", "pattern"),
    [
        ("map", "map is a str; expected a function.*give its method, map=pool.map"),
        (concurrent.futures.ThreadPoolExecutor, "map is a type"),
        (concurrent.futures.ThreadPoolExecutor(1), "map is a ThreadPoolExecutor.*map=pool.map"),
        (lambda function, items: [], "gave nothing more where a result was due"),
        (lambda function, items: [function(items[0])] * 2, "gave a tuple where a result was due.*once"),
        (lambda function, items: [concurrent.futures.Future()], "gave a Future.*cai.dask_map"),
    ],
)
def test_what_is_no_map_is_refused(map, pattern):
    with pytest.raises(TypeError, match=pattern):
        cai.compare(lottery(), ["exact", "variational"], map=map)


@pytest.mark.parametrize("map", [pickled, pytest.param(None, marks=pytest.mark.campaign)])
def test_a_question_that_cannot_be_sent_is_named(map, request):
    with pytest.raises(TypeError, match=r"cannot be sent to another process.*top of a module"):
        run_tasks(lambda item: item, [1], label="", map=map or request.getfixturevalue("spawned").map)


@pytest.mark.parametrize("map", [threads_map, pickled, pytest.param(None, marks=pytest.mark.campaign)])
def test_an_error_of_a_task_comes_through(map, request):
    with pytest.raises(ZeroDivisionError):
        run_tasks(_divide, [1, 0], label="", map=map or request.getfixturevalue("spawned").map)


def _divide(item):
    return 1 // item


def _reward(state, action, next_state, t):
    return torch.where(state == 0, -1.0 * next_state, 0.0)


def walk():
    """A step on the line that an action pushes."""
    state = pyro.sample("s_1", dist.Normal(torch.tensor(0.5), 1.0))
    action = pyro.sample("a_1", dist.Normal(torch.tensor(0.0), 0.8))
    pyro.factor("O_1", -((state + action) ** 2))


@pytest.mark.parametrize(
    "question",
    [
        lambda map: cai.compare(TrajectoryModel(lottery().mdp, _reward, horizon=1), ["exact"], map=map),
        lambda map: cai.compare(lottery().batch(temperature=[0.5, 1.0]), ["exact", "risk"], map=map, num_rollouts=20),
        lambda map: cai.compare(walk, ["smc:num_particles=50"], map=map),
        pytest.param(
            lambda map: cai.compare(
                environment_model("FrozenLake-v1", discount=0.9, temperature=0.1),
                ["soft-q-learning:steps=200"],
                episodes=2,
                map=map,
            ),
            marks=pytest.mark.campaign,
        ),
        lambda map: cai.sweep("lottery", "risk", eta=2.0, model_options={"temperature": [0.5, 1.0]}, map=map),
    ],
    ids=["python", "batch", "program", "environment", "sweep"],
)
def test_whatever_is_asked_travels(question):
    alone, away = (question(map) for map in (disordered, pickled))
    rows = [getattr(found, "comparison", found).rows for found in (alone, away)]
    assert bits(rows[0]) == bits(rows[1])
    assert rows[0]
    assert all(row.status.ok for row in rows[0])

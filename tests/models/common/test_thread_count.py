"""One core is left to others, and nobody else sees it."""

import sys
import threading

import numpy as np
import pytest
import torch

import cai
from cai.inference.kernels import values
from cai.models import MDP, TrajectoryModel
from cai.models.common import threads
from cai.models.common.threads import spare_core, thread_count


@pytest.mark.parametrize(("cores", "given", "used"), [(1, 4, 1), (2, 2, 1), (4, 2, 2), (4, 4, 3), (8, 1, 1)])
def test_one_core_is_left_to_others(cores, given, used, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: given)
    assert thread_count() == used


@pytest.fixture
def four_threads(monkeypatch):
    """Two cores, and torch with four threads, here and in threads that begin meanwhile."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(threads._setters()[0] is None, reason="torch has no OpenMP here")
def test_torch_has_fewer_threads_for_a_while_in_this_thread_alone(four_threads):
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    with spare_core():
        assert torch.get_num_threads() == 1
        with spare_core():
            assert torch.get_num_threads() == 1
        other.start()
        other.join()
    assert seen == [4]
    assert torch.get_num_threads() == 4


@pytest.mark.skipif(threads._setters()[0] is None, reason="torch has no OpenMP here")
def test_a_gradient_takes_no_more_threads_than_the_answer(four_threads, monkeypatch):
    seen, swept = [], values._swept
    monkeypatch.setattr(values, "_swept", lambda *given: (seen.append(torch.get_num_threads()), swept(*given)))
    reward = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    model = TrajectoryModel(MDP(torch.full((4, 2, 4), 0.25), initial=0), reward, horizon=3)
    cai.infer(model, "exact").log_evidence.backward()
    assert seen == [1]
    assert torch.get_num_threads() == 4
    assert float(reward.grad.sum()) == pytest.approx(3)


def test_an_error_leaves_the_number_as_it_was(four_threads):
    with pytest.raises(ZeroDivisionError), spare_core():
        _ = 1 / 0
    assert torch.get_num_threads() == 4


def test_without_openmp_nothing_is_set(four_threads, monkeypatch):
    monkeypatch.setattr(threads, "_setters", lambda: (None, None))
    with spare_core():
        assert torch.get_num_threads() == 4


def test_products_of_numpy_have_the_bits_of_one_thread():
    """Dot products of numpy differ in their last bits with how many threads OpenBLAS has."""
    known = threads._openblas()
    assert known or sys.platform != "linux"
    before = [get() for get, _ in known]
    numbers = np.random.default_rng(0).normal(size=300_000)
    found = set()
    try:
        for count in (1, 2, 3):
            for _, put in known:
                put(count)
            with threads.one_blas_thread(), threads.one_blas_thread():
                assert [get() for get, _ in known] == [1] * len(known)
                found.add(float(numbers @ numbers))
            assert [get() for get, _ in known] == [count] * len(known)
    finally:
        for (_, put), count in zip(known, before, strict=True):
            put(count)
    assert len(found) == 1


def test_one_thread_for_products_lasts_as_long_as_any_asks_for_it():
    known = threads._openblas()
    before = [get() for get, _ in known]
    first, second = threads.one_blas_thread(), threads.one_blas_thread()
    try:
        for _, put in known:
            put(2)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert [get() for get, _ in known] == [1] * len(known)
        second.__exit__(None, None, None)
        assert [get() for get, _ in known] == [2] * len(known)
    finally:
        for (_, put), count in zip(known, before, strict=True):
            put(count)

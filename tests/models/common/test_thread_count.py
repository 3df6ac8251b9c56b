"""One core is left to others, and nobody else sees it."""

import threading

import pytest
import torch

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


def test_an_error_leaves_the_number_as_it_was(four_threads):
    with pytest.raises(ZeroDivisionError), spare_core():
        _ = 1 / 0
    assert torch.get_num_threads() == 4


def test_without_openmp_nothing_is_set(four_threads, monkeypatch):
    monkeypatch.setattr(threads, "_setters", lambda: (None, None))
    with spare_core():
        assert torch.get_num_threads() == 4

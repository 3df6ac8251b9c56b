"""Parts of the destinations that others do: the same bits from any map, and as exact as all of them at once.

New processes take seconds to import torch: what runs in them is a campaign, and `strangers` stands for them elsewhere.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import weakref

import numpy as np
import pytest
import torch
from networks import draw_trips, town
from tasks_maps import disordered, pickled

import cai
from cai.inverse import Demonstrations, fit
from cai.inverse.networks import parts
from cai.inverse.networks.objective import NetworkObjective
from cai.models.common.threads import one_blas_thread
from cai.models.demonstrations.trips import read_trips

TOWN = ["minutes", "left", "u_turn"]
TRUTH = [-1.5, -0.5, -2.0]
PLACES = [torch.tensor([-1.4, -0.3, -1.0]).double(), torch.tensor([-1.5, -0.5, -2.0]).double()]


@pytest.fixture(scope="module", params=["exit", "absorb"])
def asked(request):
    """(network, trips) with 9 destinations."""
    network = town(ends=request.param)
    trips = draw_trips(network, TOWN, TRUTH, 60, seed=1)
    trips["weight"] = 1.0 + trips["trip"] % 3
    return network, read_trips(network, trips)


def threads(workers):
    def map(function, items):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return list(pool.map(function, items))

    return map


class Strangers:
    """A map of so many processes, one item each in turn, that share nothing with this one; says what was sent."""

    def __init__(self, monkeypatch, workers):
        self.memories = [(weakref.WeakValueDictionary(), []) for _ in range(workers)]
        self.patch, self.sent = monkeypatch, []

    def __call__(self, function, items):
        items = list(items)
        self.sent.append((function.function.data is not None, len(items)))
        for item, (known, latest) in zip(items, self.memories * len(items), strict=False):
            with self.patch.context() as patch:
                patch.setattr(parts, "_known", known)
                patch.setattr(parts, "_latest", latest)
                (result,) = pickled(function, [item])
            yield result


def found_by(asked, map):
    """Everything that an objective says, at two places."""
    objective = NetworkObjective(*asked, TOWN, map)
    found = []
    for place in PLACES:
        value, gradient = objective.evaluate(place)
        found += [
            np.float64(value),
            gradient.numpy(),
            objective.scores(place).numpy(),
            objective.hessian(place).numpy(),
        ]
    return found


def bits(found):
    return [part.tobytes() for part in found]


@pytest.mark.parametrize("least", [1, 2, 3, 4])
def test_parts_have_the_same_bits_from_any_map_and_the_sums_of_all_at_once(asked, least, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", least)
    plain = found_by(asked, map)
    maps = [*map(threads, (1, 2, 3)), disordered, *(Strangers(monkeypatch, workers) for workers in (1, 2, 3))]
    for one in maps:
        assert bits(found_by(asked, one)) == bits(plain)
    for part, whole in zip(plain, found_by(asked, None), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-11, atol=1e-11 * np.abs(whole).max())


def test_one_part_is_all_at_once_and_is_done_here(asked):
    def never(function, items):
        raise AssertionError("nothing is to be handed out")

    with one_blas_thread():  # as every task has
        assert bits(found_by(asked, never)) == bits(found_by(asked, None))


def test_a_part_holds_at_least_so_many_destinations_and_every_pair_once(asked, monkeypatch):
    for least, count in ((1, 9), (2, 4), (4, 2), (5, 1)):
        monkeypatch.setattr(parts, "LEAST", least)
        made = NetworkObjective(*asked, TOWN, threads(1))._parted
        ends = [set(pairs.destinations.tolist()) for pairs in made.data.parts]
        assert len(ends) == count
        assert min(map(len, ends)) >= least
        assert sum(map(len, ends)) == len(set.union(*ends)) == 9
        assert np.array_equal(np.sort(np.concatenate(made.places)), np.arange(len(np.concatenate(made.places))))


def test_data_are_sent_to_a_process_once(asked, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", 2)
    one = Strangers(monkeypatch, 2)
    found_by(asked, one)
    first, *rest = one.sent[:2], *one.sent[2:]
    assert first == [(False, 4), (True, 4)]
    assert rest == [(False, 4)] * 3
    assert all(len(latest) == 1 for _, latest in one.memories)
    one.memories[0] = (weakref.WeakValueDictionary(), [])  # a worker that has died, and another in its place
    again = NetworkObjective(*asked, TOWN, one)
    again._parted.data = next(iter(one.memories[1][0].values()))
    assert again.evaluate(PLACES[0]) is not None
    assert one.sent[5:] == [(False, 4), (True, 2)]


def test_a_fit_has_the_same_bits_from_any_map(asked, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", 4)
    plain, other, alone = (fit(*asked, features=TOWN, map=one) for one in (map, Strangers(monkeypatch, 2), None))
    for name in ("coefficients", "standard_errors", "scores", "hessian", "log_likelihood", "gradient_norm"):
        assert np.asarray(getattr(plain, name)).tobytes() == np.asarray(getattr(other, name)).tobytes(), name
    assert (plain.steps, plain.evaluations) == (other.steps, other.evaluations)
    np.testing.assert_allclose(plain.coefficients, alone.coefficients, rtol=1e-6)
    assert plain.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-12)


def test_infinite_sums_are_no_answer_by_parts_either(asked, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", 2)
    objective = NetworkObjective(*asked, TOWN, disordered)
    nothing = torch.zeros(3, dtype=torch.float64)
    assert objective.evaluate(nothing) is None
    with pytest.raises(ArithmeticError, match="infinite"):
        objective.hessian(nothing)
    with pytest.raises(ValueError, match=r"start is infeasible: rho\(M\) is about"):
        fit(*asked, features=TOWN, map=disordered, start=[0.0, 0.0, 0.0])


@pytest.mark.parametrize("error", [MemoryError("no room for the factors"), KeyboardInterrupt()])
def test_what_ends_a_part_ends_the_fit(asked, monkeypatch, error):
    monkeypatch.setattr(parts, "LEAST", 4)
    inner, calls = parts.PartData.first_order, []

    def fails(self, part, coefficients):
        calls.append(part)
        if len(calls) == 5:
            raise error
        return inner(self, part, coefficients)

    monkeypatch.setattr(parts.PartData, "first_order", fails)
    with pytest.raises(type(error)) as caught:
        fit(*asked, features=TOWN, map=threads(2))
    assert caught.value is error
    assert len(calls) <= 6  # the other part may have begun


@pytest.mark.parametrize("given", ["pool", cai.inverse, concurrent.futures.ThreadPoolExecutor])
def test_what_is_no_map_is_refused(asked, given):
    with pytest.raises(TypeError, match=r"map is a .*map=pool\.map"):
        fit(*asked, features=TOWN, map=given)


def test_models_have_no_destinations_to_share_out():
    model = cai.models.gridworld()
    shown = Demonstrations([[0, 1]], [[0]])
    with pytest.raises(ValueError, match=r"map belongs to networks.*TrajectoryModel.*cai\.inverse\.bootstrap"):
        fit(model, shown, map=map)


def _ends_itself(item):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.campaign
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_same_bits_from_new_processes(asked, monkeypatch, workers):
    monkeypatch.setattr(parts, "LEAST", 2)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        assert bits(found_by(asked, pool.map)) == bits(found_by(asked, map))
        assert bits(found_by(asked, pool.map)) == bits(found_by(asked, map))  # other data, the same processes
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(_ends_itself, 0).result()
        with pytest.raises(concurrent.futures.BrokenExecutor):
            found_by(asked, pool.map)

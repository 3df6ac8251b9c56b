"""A cluster of Dask workers gives the bits of this process, also where one of them is killed in the middle."""

import importlib.util
import os
import signal

import numpy as np
import pytest
from networks import draw_trips, town
from tasks_bits import bits
from tasks_maps import one_by_one

import cai
from cai.inverse.networks import parts
from cai.models import bridge, gridworld

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of sockets and loops that Dask leaves to the collector
]


@pytest.fixture
def client(tmp_path):
    """Two workers, each a process of its own."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


STUDY = [f"risk:eta={eta / 8}" for eta in range(-40, 24)]  # 64 comparisons


def killing(client, folder, after):
    """A map that kills one worker once some chunks are done."""
    inner = cai.dask_map(client)

    def map(function, items):
        victim = client.run(os.getpid).popitem()[1]
        for count, result in enumerate(inner.unordered(function, items)):
            if count == after:
                os.kill(victim, signal.SIGKILL)
            yield result

    return map


@pytest.mark.campaign
def test_a_study_of_64_comparisons_survives_the_death_of_a_worker(client, tmp_path):
    model = bridge()
    alone = cai.compare(model, STUDY, num_rollouts=50)
    found = cai.compare(model, STUDY, num_rollouts=50, map=killing(client, tmp_path, 5), folder=tmp_path / "study")
    assert len(found.rows) == 64
    assert bits(found.rows) == bits(alone.rows)
    again = cai.compare(model, STUDY, num_rollouts=50, folder=tmp_path / "study")  # nothing is left to do
    assert [row.seconds for row in again.rows] == [row.seconds for row in found.rows]
    assert again.to_json() == found.to_json()


@pytest.mark.campaign
def test_sweeps_and_the_order_of_results(client):
    options = {"slip": [0.0, 0.1, 0.3]}
    alone, away = (
        cai.sweep("bridge", "exact", model_options=options, seeds=[0, 5], num_rollouts=20, map=map)
        for map in (one_by_one, cai.dask_map(client))
    )
    assert bits(alone.comparison.rows) == bits(away.comparison.rows)
    assert list(cai.dask_map(client)(pow, range(20), [2] * 20)) == [i**2 for i in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(cai.dask_map(client)(divmod, [1, 1], [1, 0]))
    with pytest.raises(TypeError, match=r"map is a Client.*map=cai\.dask_map\(client\)"):
        cai.compare(gridworld(), ["exact"], map=client)
    with pytest.raises(TypeError, match=r"gave a Future.*cai\.dask_map\(client\)"):
        cai.compare(gridworld(), ["exact"], map=client.map)


@pytest.mark.campaign
def test_one_fit_on_a_network_goes_on_without_a_worker(client, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", 2)
    features = ["minutes", "left", "u_turn"]
    trips = draw_trips(town(), features, [-1.5, -0.5, -2.0], 60, seed=1)
    inner, calls = cai.dask_map(client), []

    def map(function, items):
        calls.append(1)
        if len(calls) == 5:
            os.kill(client.run(os.getpid).popitem()[1], signal.SIGKILL)
        return inner(function, items)

    here, away = (cai.inverse.fit(town(), trips, features=features, map=one) for one in (one_by_one, map))
    for name in ("coefficients", "covariance", "scores", "hessian", "log_likelihood"):
        assert np.asarray(getattr(here, name)).tobytes() == np.asarray(getattr(away, name)).tobytes(), name


@pytest.mark.parametrize("given", [None, "tcp://here", cai.dask_map])
def test_what_is_no_client_is_refused(given):
    with pytest.raises(TypeError, match=r"client is a .*; give a dask\.distributed\.Client"):
        cai.dask_map(given)

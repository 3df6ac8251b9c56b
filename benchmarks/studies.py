"""Where it is worth it to hand the tasks of a study to others: its time with each `map=` over that of Python's own.

    python -m benchmarks.studies [--rounds 5] [--tasks 16] [--workers 2] [--only fits] [--out studies.json]

One study, `cai.compare` with as many backends as there are tasks (`risk`, each with an eta of its own), on random
problems of three sizes, so that a task takes a few milliseconds, tens of them, or hundreds. Calls take turns in one
run, and all pools are up before the first is timed: to start a process, which imports torch, takes seconds once.

Then one evaluation (value and gradient) of `cai.inverse.fit` on road networks, by parts of the destinations, over that
without a map; at coefficients that are new each time, as in a search. Seconds are what a clock shows.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import cai
from benchmarks.inverse import FEATURES, TRUTH, make_walks
from benchmarks.timing import Sample, interleave
from cai.inverse.networks.objective import NetworkObjective
from cai.models import random_mdp

__all__ = ["NETWORKS", "SIZES", "main", "maps", "measure", "measure_fits"]

SIZES = {"8 states": 8, "1,000 states": 1_000, "10,000 states": 10_000}
NETWORKS = {"3,000 links": (32, 800), "12,000 links": (64, 900), "100,000 links": (183, 1_000)}  # side, trips
SOME = 4  # chunks that a process takes at a time, in the row that sends fewer messages


@contextlib.contextmanager
def maps(workers: int) -> Iterator[dict[str, Callable[..., Any]]]:
    """Every map by name, with its workers up; Dask's where it is installed.

    Args:
        workers: how many threads, processes and Dask workers.
    """
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        processes = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
        found: dict[str, Callable[..., Any]] = {
            "map": map,
            "threads": threads.map,
            "processes": processes.map,
            f"processes, chunksize={SOME}": functools.partial(processes.map, chunksize=SOME),
        }
        with contextlib.suppress(ImportError):
            from distributed import Client, LocalCluster

            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            stack.enter_context(cluster)
            found["Dask"] = cai.dask_map(stack.enter_context(Client(cluster)))
        yield found


def measure(
    found: dict[str, Callable[..., Any]], states: int, tasks: int, rounds: int, budget: float
) -> dict[str, Sample]:
    """Seconds of one study by each map.

    Args:
        found: maps by name.
        states: of the problem.
        tasks: how many backends are compared.
        rounds: of calls that take turns.
        budget: seconds for one map.
    """
    model = random_mdp(num_states=states, branching=4, horizon=20)
    backends = [f"risk:eta={(i + 1) / tasks}" for i in range(tasks)]
    calls = {name: functools.partial(_study, model, backends, one) for name, one in found.items()}
    return _in_turns(calls, rounds, budget)


def measure_fits(
    found: dict[str, Callable[..., Any]], side: int, trips: int, rounds: int, budget: float
) -> tuple[dict[str, Sample], tuple[int, int]]:
    """Seconds of one evaluation by each map, and by none; (links, destinations).

    Args:
        found: maps by name.
        side: crossings of the road network along each side.
        trips: how many.
        rounds: of calls that take turns.
        budget: seconds for one map.
    """
    network, read = make_walks(side, trips)
    calls = {name: _evaluation(network, read, one) for name, one in {"no map": None, **found}.items()}
    return _in_turns(calls, rounds, budget), (network.num_links, len(network.destination_index))


def _evaluation(network: Any, read: Any, one: Callable[..., Any] | None) -> Callable[[], Any]:
    objective, number = NetworkObjective(network, read, FEATURES, one), itertools.count()
    place = torch.tensor(TRUTH, dtype=torch.float64)
    return lambda: objective.evaluate(place * (1 + 1e-4 * next(number)))


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int, budget: float) -> dict[str, Sample]:
    first = {}
    for name, call in calls.items():
        begun = time.perf_counter()
        call()
        first[name] = time.perf_counter() - begun
    return interleave(calls, first, rounds=rounds, budget=budget)


def _study(model: Any, backends: list[str], one: Callable[..., Any]) -> Any:
    return cai.compare(model, backends, num_rollouts=100, map=one)


def main() -> None:
    """Measures and prints; writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budget", type=float, default=40.0, help="seconds for one map and size")
    parser.add_argument("--only", choices=("studies", "fits"), help="leaves the others out")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="of the fits")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    with maps(arguments.workers) as found:
        for size, states in SIZES.items() if arguments.only != "fits" else ():
            samples = measure(found, states, arguments.tasks, arguments.rounds, arguments.budget)
            task = samples["map"].median / arguments.tasks
            told[size] = _told(samples, "map", f"{size}: a task takes {1e3 * task:.3g} ms")
        for size in arguments.networks if arguments.only != "studies" else ():
            samples, counts = measure_fits(found, *NETWORKS[size], arguments.rounds, arguments.budget)
            taken = samples["no map"].median
            title = f"{counts[0]:,} links, {counts[1]} destinations: an evaluation takes {taken:.3g} s"
            told[size] = _told(samples, "no map", title)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=1))


def _told(samples: dict[str, Sample], reference: str, title: str) -> dict[str, Any]:
    """Prints the times over those of one of them."""
    alone = samples[reference]
    print(f"{title}; time over that of {reference}")
    for name, sample in samples.items():
        low, high = (quartile / alone.median for quartile in sample.quartiles)
        print(f"    {name:26} {sample.ratio(alone):5.2f}   ({low:.2f} to {high:.2f})", flush=True)
    return {name: {"seconds": s.median, "ratio": s.ratio(alone)} for name, s in samples.items()}


if __name__ == "__main__":
    main()

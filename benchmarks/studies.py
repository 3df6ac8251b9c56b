"""Where it is worth it to hand the tasks of a study to others: its time with each `map=` over that of Python's own.

    python -m benchmarks.studies [--rounds 5] [--tasks 16] [--workers 2] [--out studies.json]

One study, `cai.compare` with as many backends as there are tasks (`risk`, each with an eta of its own), on random
problems of three sizes, so that a task takes a few milliseconds, tens of them, or hundreds. Calls take turns in one
run, and all pools are up before the first is timed: to start a process, which imports torch, takes seconds once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import cai
from benchmarks.timing import Sample, interleave
from cai.models import random_mdp

__all__ = ["SIZES", "main", "maps", "measure"]

SIZES = {"8 states": 8, "1,000 states": 1_000, "10,000 states": 10_000}
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
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    with maps(arguments.workers) as found:
        for size, states in SIZES.items():
            samples = measure(found, states, arguments.tasks, arguments.rounds, arguments.budget)
            alone = samples["map"]
            print(f"{size}: a task takes {1e3 * alone.median / arguments.tasks:.3g} ms; time over that of map")
            for name, sample in samples.items():
                low, high = (quartile / alone.median for quartile in sample.quartiles)
                print(f"    {name:26} {sample.ratio(alone):5.2f}   ({low:.2f} to {high:.2f})")
            told[size] = {name: {"seconds": s.median, "ratio": s.ratio(alone)} for name, s in samples.items()}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

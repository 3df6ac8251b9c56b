"""How time grows with S, T and K, for both jobs of `cai` by the kernel it chooses and by the torch one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import library_contenders
from benchmarks.floor import bytes_moved
from benchmarks.timing import Sample, interleave, slope
from benchmarks.workloads import Workload, grid_workload

__all__ = ["AXES", "fitted_slope", "run_curve"]

JOBS = ("fixed", "exact", "fixed, torch", "exact, torch")
SIDES = (32, 56, 100, 178, 316, 422, 500, 600, 700, 850, 1000)  # S from 1,024 to 1,000,000; K = 3, T = 20
HORIZONS = (50, 100, 200, 400, 800, 1600, 3200, 6400)  # on the grid of B
LONG = 800  # steps from which the milliseconds that a call takes in any case are lost among them
OUTCOMES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # on the grid of B, T = 20
BEYOND = {"S": 1, "K": 4}  # times the last cache from which what a step reads no longer stays there in part
AXES = {"S": "states S", "T": "horizon T", "K": "successors K"}


def _workloads(axis: str, quick: bool) -> dict[int, Callable[[], Workload]]:
    if axis == "S":
        sides = SIDES[:4] if quick else SIDES
        return {side * side: lambda side=side: grid_workload(side, side, 3, 20) for side in sides}
    if axis == "T":
        horizons = HORIZONS[:3] if quick else HORIZONS
        return {horizon: lambda horizon=horizon: grid_workload(100, 100, 4, horizon) for horizon in horizons}
    if axis == "K":
        outcomes = OUTCOMES[:4] if quick else OUTCOMES
        return {number: lambda number=number: grid_workload(100, 100, number, 20) for number in outcomes}
    raise ValueError(f"no curve along {axis!r}; choose from {', '.join(AXES)}")


def run_curve(
    axis: str,
    *,
    cache: int | None,
    quick: bool = False,
    rounds: int = 15,
    budget: float = 20.0,
    tick: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Times both jobs along one axis.

    The slope of S is fitted where what a step reads is larger than the last cache. Below it S costs the fixed price of
    a call to each operation, then steps up where the data leave a cache. K hides behind the exponentials and
    logarithms, whose number does not depend on it, and behind what each row costs; where it no longer does a step only
    streams its table, a part of which the cache keeps up to some times its size: the slope of K is fitted beyond. T
    repeats the same step: its slope is fitted from `LONG` on.

    Args:
        axis: "S", "T" or "K".
        cache: bytes of the last cache, or None if that is unknown: then everything is fitted.
        quick: whether to time small sizes only.
        rounds: the most times each call is made.
        budget: seconds for each.
        tick: is told what happens now.

    Returns:
        Sizes, bytes a step, median seconds of each job, which sizes were fitted, and the slopes.
    """
    sizes: list[int] = []
    step_bytes: list[int] = []
    calls: dict[tuple[int, str], Callable[[], Any]] = {}
    first: dict[tuple[int, str], float] = {}
    for size, make in _workloads(axis, quick).items():
        workload = make()
        sizes.append(size)
        step_bytes.append(bytes_moved(workload) // workload.horizon)
        tick(f"curve along {axis}: first calls of {size:,}")
        for contender in library_contenders(workload):
            key = size, contender.job + contender.name.removeprefix("cai")
            calls[key] = contender.prepare(workload)
            start = time.perf_counter()
            calls[key]()
            first[key] = time.perf_counter() - start
    # All sizes take turns, so that a machine that is slower for a minute is so for all of them.
    samples = interleave(
        calls, first, rounds=rounds, budget=budget, tick=lambda key: tick(f"curve along {axis}: {key}")
    )
    seconds = {job: [samples[size, job].median for size in sizes] for job in JOBS}
    if axis == "T":
        fitted = [horizon >= LONG for horizon in sizes]
    else:
        fitted = [cache is None or number > BEYOND[axis] * cache for number in step_bytes]
    if sum(fitted) < 2:
        fitted = [True] * len(sizes)
    return {
        "axis": axis,
        "sizes": sizes,
        "step_bytes": step_bytes,
        "seconds": seconds,
        "fitted": fitted,
        "slopes": {job: fitted_slope(sizes, [samples[size, job] for size in sizes], fitted) for job in JOBS},
        "slopes_of_all": {
            job: fitted_slope(sizes, [samples[size, job] for size in sizes], [True] * len(sizes)) for job in JOBS
        },
    }


def fitted_slope(sizes: list[int], samples: list[Sample], chosen: list[bool]) -> float:
    """The median of the slopes of the rounds: calls of one round are made within seconds of each other."""
    pairs = [pair for pair, use in zip(zip(sizes, samples, strict=True), chosen, strict=True) if use]
    rounds = min(len(sample.seconds) for _, sample in pairs)
    used = [float(size) for size, _ in pairs]
    return statistics.median(slope(used, [sample.seconds[number] for _, sample in pairs]) for number in range(rounds))

"""How time grows with S, T and K, for both jobs of `cai` by the kernels it chooses and by the native one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import library_contenders
from benchmarks.floor import bytes_moved
from benchmarks.timing import interleave, slope
from benchmarks.workloads import Workload, grid_workload

__all__ = ["AXES", "run_curve"]

JOBS = ("fixed", "exact", "fixed, native", "exact, native")
SIDES = (32, 56, 100, 178, 316, 422, 562, 750, 1000)  # S from 1,024 to 1,000,000; K = 3, T = 20
HORIZONS = (50, 100, 200, 400, 800, 1600, 3200, 6400)  # on the grid of B
LONG = 800  # steps from which the milliseconds that a call takes in any case are lost among them
OUTCOMES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # on the grid of B, T = 20
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
    rounds: int = 7,
    budget: float = 20.0,
    tick: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Times both jobs along one axis.

    The slope of S and of K is fitted where what a step reads is larger than the last cache. Below it S costs the fixed
    price of a call to each operation, then steps up where the data leave a cache; K hides behind the exponentials and
    logarithms, whose number does not depend on it. T repeats the same step: its slope is fitted from `LONG` on.

    Args:
        axis: "S", "T" or "K".
        cache: bytes of the last cache, or None if that is unknown: then everything is fitted.
        quick: whether to time small sizes only.
        rounds: the most times each call is made.
        budget: seconds for each.
        tick: is told what happens now.

    Returns:
        Sizes, bytes a step, seconds of each job, which sizes were fitted, and the slopes.
    """
    sizes: list[int] = []
    step_bytes: list[int] = []
    seconds: dict[str, list[float]] = {job: [] for job in JOBS}
    for size, make in _workloads(axis, quick).items():
        workload = make()
        contenders = {
            contender.job + contender.name.removeprefix("cai"): contender
            for contender in library_contenders(workload, compiled=False)
        }
        tick(f"curve along {axis}: {size:,}")
        calls = {job: contenders[job].prepare(workload) for job in JOBS}
        first = {}
        for job, call in calls.items():
            start = time.perf_counter()
            call()
            first[job] = time.perf_counter() - start
        samples = interleave(calls, first, rounds=rounds, budget=budget)
        sizes.append(size)
        step_bytes.append(bytes_moved(workload) // workload.horizon)
        for job in JOBS:
            seconds[job].append(samples[job].median)
    if axis == "T":
        fitted = [horizon >= LONG for horizon in sizes]
    else:
        fitted = [cache is None or number > cache for number in step_bytes]
    if sum(fitted) < 2:
        fitted = [True] * len(sizes)
    return {
        "axis": axis,
        "sizes": sizes,
        "step_bytes": step_bytes,
        "seconds": seconds,
        "fitted": fitted,
        "slopes": {job: _fit(sizes, seconds[job], fitted) for job in JOBS},
        "slopes_of_all": {job: _fit(sizes, seconds[job], [True] * len(sizes)) for job in JOBS},
    }


def _fit(sizes: list[int], seconds: list[float], chosen: list[bool]) -> float:
    pairs = [pair for pair, use in zip(zip(sizes, seconds, strict=True), chosen, strict=True) if use]
    return slope([float(size) for size, _ in pairs], [elapsed for _, elapsed in pairs])

"""What the library is to reach, and whether it did in this run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.suite import find_row

__all__ = ["judge"]

BUSY_LIMIT = 1.3


def judge(
    results: Mapping[str, Mapping[str, Any]], memory: list[dict[str, Any]], curves: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every target that this run can decide.

    Args:
        results: of `run_workload`, by the workload's name.
        memory: rows of workload, contender, job, first and value bytes.
        curves: of `run_curve`.

    Returns:
        Rows of target, value, limit and whether it is met.
    """
    rows: list[dict[str, Any]] = []

    def add(target: str, value: float | None, limit: float) -> None:
        if value is not None:
            rows.append({"target": target, "value": value, "limit": limit, "met": value <= limit})

    def ratio(above: float | None, below: float | None) -> float | None:
        return None if above is None or below is None else above / below

    def times(name: str, contender: str, job: str, key: str = "median_s") -> float | None:
        row = find_row(dict(results[name]), contender, job) if name in results else None
        return None if row is None else row[key]

    for name, what, limit in (("A", "the", 1.25), ("E", "the batch's", 3.0)):
        for job in ("fixed", "exact"):
            if name in results:
                value = ratio(times(name, "cai", job, "one_thread_s"), results[name]["one_thread_floor_s"])
                add(f"{name}, {job}: cai over {what} floor, one thread each", value, limit)
    for name, limit in (("B", 0.7), ("C", 0.65)):
        own = times(name, "cai", "fixed", "one_thread_s")
        add(f"{name}, fixed: cai on one thread over quantecon", ratio(own, times(name, "quantecon", "fixed")), limit)
    own = times("B", "cai", "fixed", "one_thread_s")
    add("B, fixed: cai on one thread over a loop with a CSR product", ratio(own, times("B", "scipy", "fixed")), 0.7)
    add("B: cai exact over cai fixed", ratio(times("B", "cai", "exact"), times("B", "cai", "fixed")), 0.75)
    add("D: gradient over the value pass", ratio(times("D", "cai", "gradient"), times("D", "cai", "exact")), 2.0)
    loop = times("F", "loop", "exact")
    add("F, exact: cai over the loop of a lecture", ratio(times("F", "cai", "exact"), loop), 1.0)
    add("F, statistics: cai over the loop of a lecture", ratio(times("F", "cai", "statistics"), loop), 3.0)
    for name, result in results.items():
        for row in result["rows"]:
            if row["contender"] == "cai":
                above = ratio(row["busy_s"], row["one_thread_s"])
                add(f"{name}, {row['job']}: one core busy, over one thread", above, BUSY_LIMIT)
    for row in memory:
        if row["workload"] == "C" and row["contender"].startswith("cai"):
            share = max(row["first_bytes"], row["later_bytes"]) / row["value_bytes"]
            add(f"C, {row['job']}, {row['contender']}: memory added over that of the values", share, 1.5)
    for curve in curves:
        for job, value in curve["slopes"].items():
            add(f"slope in {curve['axis']}, {job}: distance from 1", abs(value - 1), 0.05)
    return rows

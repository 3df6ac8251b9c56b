"""What the library is to reach, and whether it did in this run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.suite import find_row

__all__ = ["judge"]

OWN = ("cai", "cai, compiled", "cai, native")
TORCH = ("cai", "cai, compiled")


def _best(result: Mapping[str, Any], job: str, names: tuple[str, ...] = OWN) -> float | None:
    """Seconds of the fastest of several contenders on a job."""
    rows = [row for name in names if (row := find_row(dict(result), name, job))]
    return min((row["median_s"] for row in rows), default=None)


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

    if "A" in results:
        for job in ("fixed", "exact"):
            add(f"A, {job}: cai over the floor", ratio(_best(results["A"], job), results["A"]["floor_s"]), 1.25)
    for name, limit in (("B", 0.7), ("C", 0.65)):
        if name in results:
            rival = _best(results[name], "fixed", ("quantecon",))
            for kind, names in (("torch", TORCH), ("native", ("cai, native",))):
                add(
                    f"{name}, fixed: cai ({kind}) over quantecon",
                    ratio(_best(results[name], "fixed", names), rival),
                    limit,
                )
    for kind, name in (("torch", "cai"), ("native", "cai, native")):
        if "B" in results:
            own = [_best(results["B"], job, (name,)) for job in ("exact", "fixed")]
            add(f"B: cai exact over cai fixed ({kind})", ratio(*own), 1.5)
        if "D" in results:
            own = [_best(results["D"], job, (name,)) for job in ("gradient", "exact")]
            add(f"D: gradient over the value pass ({kind})", ratio(*own), 2.0)
    if "E" in results:
        for job in ("fixed", "exact"):
            add(f"E, {job}: cai over the batch's floor", ratio(_best(results["E"], job), results["E"]["floor_s"]), 3.0)
    for row in memory:
        if row["workload"] == "C" and row["contender"] in OWN:
            share = max(row["first_bytes"], row["later_bytes"]) / row["value_bytes"]
            add(f"C, {row['job']}, {row['contender']}: memory added over that of the values", share, 1.5)
    for curve in curves:
        for job, value in curve["slopes"].items():
            add(f"slope in {curve['axis']}, {job}: distance from 1", abs(value - 1), 0.05)
    return rows

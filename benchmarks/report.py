"""The tables of a run, in the terminal and as Markdown."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["job_title", "markdown_report", "print_report", "seconds_text"]

TIMES = ("median", "quartiles", "one thread", "one core busy")
COLUMNS = ("workload", "job", "library", *TIMES, "x floor", "x cai", "note")
NUMBERS = ("x ", "one ", "median", "measured")  # how the names of columns of numbers begin
JOBS = {
    "fixed": "fixed dynamics",
    "exact": "sum-product",
    "gradient": "gradient",
    "statistics": "sum-product with return, luck and marginals",
}


def job_title(job: str) -> str:
    """What a job is called, with the kernel behind it where it has one."""
    name, *kernel = job.split(", ")
    return ", ".join([JOBS[name], *kernel])


def seconds_text(seconds: float) -> str:
    """A time with three digits and its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds / scale < 1000 else f"{seconds / scale:,.0f} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def timing_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the main table, one row a contender; the floor leads each workload."""
    rows = []
    for name, result in report["workloads"].items():
        bandwidth = f"{result['bytes'] / 1e6:,.0f} MB at {result['bandwidth'] / 1e9:.1f} GB/s"
        twice = "; twice for a gradient" if any(row["job"] == "gradient" for row in result["rows"]) else ""
        floors = seconds_text(result["floor_s"]), "", seconds_text(result["one_thread_floor_s"]), ""
        rows.append((name, "", "floor", *floors, "1", "", bandwidth + twice))
        own = {row["job"]: row["median_s"] for row in result["rows"] if row["contender"] == "cai"}
        for row in result["rows"]:
            job = JOBS[row["job"]]
            if row["median_s"] is None:
                rows.append((name, job, row["contender"], "-", "", "", "", "", "", row["error"]))
                continue
            low, high = row["quartiles_s"]
            spread = f"{seconds_text(low)} to {seconds_text(high)}" if row["repeats"] > 1 else "one run"
            times = "" if own.get(row["job"]) is None else f"{row['median_s'] / own[row['job']]:.2f}"
            others = ("" if row[key] is None else seconds_text(row[key]) for key in ("one_thread_s", "busy_s"))
            over = f"{row['floor_ratio']:.2f}"
            cells = (seconds_text(row["median_s"]), spread, *others, over, times, row["note"])
            rows.append((name, job, row["contender"], *cells))
    return rows


def memory_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the memory table."""
    rows = []
    for row in report["memory"]:
        share = max(row["first_bytes"], row["later_bytes"]) / row["value_bytes"]
        megabytes = (f"{row[key] / 1e6:,.0f}" for key in ("first_bytes", "later_bytes", "value_bytes"))
        rows.append((row["workload"], JOBS[row["job"]], row["contender"], *megabytes, f"{share:.2f}"))
    return rows


def curve_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table of slopes."""
    rows = []
    for curve in report["curves"]:
        used = [size for size, use in zip(curve["sizes"], curve["fitted"], strict=True) if use]
        span, whole = (f"{sizes[0]:,} to {sizes[-1]:,}" for sizes in (used, curve["sizes"]))
        for job, value in curve["slopes"].items():
            rows.append(
                (curve["axis"], job_title(job), f"{value:.3f}", span, f"{curve['slopes_of_all'][job]:.3f}", whole)
            )
    return rows


def target_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table of targets."""
    return [
        (row["target"], f"{row['value']:.3f}", f"{row['limit']:g}", "met" if row["met"] else "missed")
        for row in report["targets"]
    ]


def _tables(report: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    memory = ("workload", "job", "library", "first call, MB", "later call, MB", "values alone, MB", "x values")
    slopes = ("axis", "job", "slope", "fitted over", "slope of all", "all sizes")
    return [
        ("Times", COLUMNS, timing_rows(report)),
        ("Memory added during a call, at its peak", memory, memory_rows(report)),
        ("Slopes of log time over log size", slopes, curve_rows(report)),
        ("Targets", ("target", "measured", "at most", ""), target_rows(report)),
    ]


def print_report(report: dict[str, Any], console: Console) -> None:
    """Prints every table that has rows."""
    for title, columns, rows in _tables(report):
        if not rows:
            continue
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="right" if column.startswith(NUMBERS) else "left")
        last = ""
        for row in rows:
            if last and row[0] != last and title == "Times":
                table.add_section()
            last = row[0]
            table.add_row(*row, style="bold" if "cai" in row[2:3] else "red" if row[-1] == "missed" else None)
        console.print(table)
    console.print(machine_line(report))


def machine_line(report: dict[str, Any]) -> str:
    """One sentence on where and with what was measured."""
    machine = report["machine"]
    caches = ", ".join(f"{name} {size / 2**20:g} MiB" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, "
        f"{caches or 'caches unknown'}, {machine['memory_gib']:g} GiB, load {machine['load']:.1f} "
        f"before the run; Python {machine['python']}, {versions}; float64."
    )


def markdown_report(report: dict[str, Any]) -> str:
    """The same tables as Markdown."""
    parts = []
    for title, columns, rows in _tables(report):
        if rows:
            lines = [columns, tuple("---" for _ in columns), *rows]
            parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, machine_line(report)]) + "\n"

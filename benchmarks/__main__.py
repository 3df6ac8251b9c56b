"""`python -m benchmarks`: every workload, the memory of a call, the curves; tables, JSON and a figure."""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, keep_memory, limit_threads

PARTS = ("memory", "curves")
WIDTH = 140  # columns, where the output is no terminal
BUSY = 0.5  # processes that ran on average over the last minute, above which times mean little


def main() -> int:
    """Runs what is asked for; returns 1 if a contender failed, 0 otherwise, whether or not a target is met."""
    options = _options()
    keep_memory()
    limit_threads(options.threads)
    # These import numpy, torch and rich, which must see how many threads they may use.
    from rich.console import Console

    from benchmarks.figure import draw_report
    from benchmarks.report import markdown_report, print_report
    from benchmarks.scaling import AXES, run_curve
    from benchmarks.suite import run_workload
    from benchmarks.targets import judge
    from benchmarks.workloads import WORKLOADS

    _use_threads(options.threads)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    known = (*WORKLOADS, *PARTS)
    chosen = known if options.only is None else tuple(name.strip() for name in options.only.split(","))
    for name in chosen:
        if name not in known:
            raise SystemExit(f"there is no part {name!r}; --only takes a list of {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    report: dict[str, Any] = {
        "when": datetime.now().isoformat(timespec="seconds"),
        "quick": options.quick,
        "machine": describe_machine(options.threads),
        "workloads": {},
        "memory": [],
        "curves": [],
        "targets": [],
    }
    if report["machine"]["load"] > BUSY:
        console.print(
            f"The load of this machine is {report['machine']['load']:.1f}: other work takes its cores, and threads "
            "wait for each other. Times will be too long, and ratios wrong; run again when it is idle.",
            style="red",
        )
    with console.status("starting") as status:

        def tick(message: str) -> None:
            status.update(message)

        for name in chosen:
            if name in WORKLOADS:
                report["workloads"][name] = run_workload(
                    name,
                    quick=options.quick,
                    rounds=options.rounds,
                    budget=options.budget,
                    tick=tick,
                )
                _write(report, options.out)
        if "memory" in chosen:
            report["memory"] = _memory(options, tick)
        if "curves" in chosen:
            caches = report["machine"]["caches"]
            cache = max(caches.values(), default=None)
            for axis in AXES:
                curve = run_curve(axis, cache=cache, quick=options.quick, rounds=options.rounds, tick=tick)
                report["curves"].append(curve)
                _write(report, options.out)
    if not options.quick:  # small sizes say nothing about them
        report["targets"] = judge(report["workloads"], report["memory"], report["curves"])
    report["seconds"] = time.perf_counter() - start
    _write(report, options.out)
    (options.out / "benchmarks.md").write_text(markdown_report(report))
    if report["workloads"]:
        draw_report(report, options.out / "benchmarks.png")
    print_report(report, console)
    console.print(f"{report['seconds']:.0f} s; written to {options.out}/benchmarks.json, .md and .png")
    return int(any(row["failed"] for result in report["workloads"].values() for row in result["rows"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help="a list of A,B,C,Cr,D,E,F,memory,curves; everything unless given")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="a folder for what is written")
    parser.add_argument("--threads", type=int, default=2, help="of every library, and cores of the process")
    parser.add_argument("--rounds", type=int, default=15, help="calls of each contender at most; more of short ones")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for all calls of one contender")
    return parser.parse_args()


def _use_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


def _memory(options: argparse.Namespace, tick: Any) -> list[dict[str, Any]]:
    from benchmarks.memory import added_memory
    from benchmarks.workloads import make_workload

    rows = []
    value_bytes = make_workload("C", options.quick).value_bytes
    cases = [(name, job) for name in ("cai", "cai, torch", "jax", "scipy") for job in ("fixed", "exact")]
    for name, job in (*cases, ("quantecon", "fixed")):
        tick(f"memory of {name}: {job} on C")
        try:
            first, later = added_memory("C", name, job, quick=options.quick, threads=options.threads)
        except RuntimeError:  # what is not installed is already said in the table of times
            continue
        sizes = {"first_bytes": first, "later_bytes": later, "value_bytes": value_bytes}
        rows.append({"workload": "C", "contender": name, "job": job, **sizes})
    return rows


def _write(report: dict[str, Any], folder: Path) -> None:
    """Everything so far, so that a run that is interrupted loses nothing."""
    (folder / "benchmarks.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())

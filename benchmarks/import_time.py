"""CPU time of `import cai` as a multiple of that of `import torch, pyro`: python -m benchmarks.import_time."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 9
FLOOR, OURS = "import torch, pyro", "import cai"


def cpu_seconds(code: str) -> float:
    """User and system seconds of a fresh interpreter that runs a line of code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints medians over rounds in which both take turns; the first of each, which compiles, does not count."""
    taken: dict[str, list[float]] = {FLOOR: [], OURS: []}
    for _ in range(ROUNDS + 1):
        for code, seconds in taken.items():
            seconds.append(cpu_seconds(code))
    floor, ours = (statistics.median(seconds[1:]) for seconds in taken.values())
    print(f"{FLOOR}: {floor:.2f} s; {OURS}: {ours:.2f} s; ratio {ours / floor:.3f}")


if __name__ == "__main__":
    main()

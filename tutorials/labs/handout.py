"""What students install: puts wheels, requirements.txt and a README beside the released notebooks of a course.

`make labs` calls it as `python tutorials/labs/handout.py RELEASE WHEELS`: the folder of the release, and the one that
holds the wheel for this platform and, in `any/`, the wheel without native loops. A clone, which holds every solution,
is not needed.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def requirements(here: Path, anywhere: Path) -> str:
    """The lines for pip: a wheel by its path, so that no package of that name on an index is taken for it.

    Args:
        here: the wheel for this platform.
        anywhere: the wheel for all others; the same name where no compiler was found.
    """
    lines = [
        "# In this folder, with Python 3.11 or newer: pip install -r requirements.txt",
        "--constraint constraints.txt",
    ]
    if here.name == anywhere.name:
        lines.append(f"./{anywhere.name}[notebooks]")
    else:
        this = f'sys_platform == "{sys.platform}" and platform_machine == "{platform.machine()}"'
        other = f'sys_platform != "{sys.platform}" or platform_machine != "{platform.machine()}"'
        lines += [f"./{here.name}[notebooks] ; {this}", f"./{anywhere.name}[notebooks] ; {other}"]
    return "\n".join([*lines, "jupyterlab", ""])


def hand_out(release: Path, wheels: Path) -> None:
    """Fills the folder that students get; the notebooks are there already."""
    (here,), (anywhere,) = wheels.glob("*.whl"), (wheels / "any").glob("*.whl")
    for path in {here.name: here, anywhere.name: anywhere}.values():
        shutil.copy(path, release)
    shutil.copy(ROOT / "constraints.txt", release)
    shutil.copy(ROOT / "LICENSE", release)
    shutil.copy(ROOT / "tutorials" / "labs" / "STUDENTS.md", release / "README.md")
    (release / "requirements.txt").write_text(requirements(here, anywhere), encoding="utf-8")


if __name__ == "__main__":
    hand_out(Path(sys.argv[1]), Path(sys.argv[2]))

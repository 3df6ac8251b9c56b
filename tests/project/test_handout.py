"""What students install beside the released labs: one wheel for each platform, no clone, and versions that agree."""

import platform
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tutorials" / "labs"))  # a script, no part of the package

from handout import hand_out

ANYWHERE = "control_as_inference-0.1.0-py3-none-any.whl"
HERE = "control_as_inference-0.1.0-py3-none-linux_x86_64.whl"
OTHERS = (
    {"sys_platform": "darwin", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_machine": "AMD64"},
)


@pytest.fixture
def released(tmp_path, request):
    wheels, release = tmp_path / "dist", tmp_path / "release"
    (wheels / "any").mkdir(parents=True)
    release.mkdir()
    (wheels / request.param).touch()
    (wheels / "any" / ANYWHERE).touch()
    hand_out(release, wheels)
    return release


def chosen(release, **elsewhere):
    """The wheels that pip would take on a platform, by the markers of requirements.txt."""
    names = []
    for line in (release / "requirements.txt").read_text().splitlines():
        if line.startswith("./"):
            path, _, marker = line.partition(" ; ")
            assert path.endswith(".whl[notebooks]")
            asked = Requirement(f"x ; {marker}" if marker else "x").marker
            names += [path[2:-11]] if asked is None or asked.evaluate(elsewhere) else []
    return names


@pytest.mark.parametrize("released", [HERE, ANYWHERE], indirect=True)
def test_each_platform_takes_one_wheel_that_lies_there(released):
    here = chosen(released, sys_platform=sys.platform, platform_machine=platform.machine())
    assert here == [path.name for path in released.glob("*.whl") if path.name == HERE] or here == [ANYWHERE]
    for other in OTHERS:
        assert chosen(released, **other) == [ANYWHERE]
    assert all((released / name).exists() for name in [*here, ANYWHERE])


@pytest.mark.parametrize("released", [HERE], indirect=True)
def test_students_are_led_to_files_that_are_there_and_to_no_clone(released):
    said, wanted = (released / "README.md").read_text(), (released / "requirements.txt").read_text()
    assert "requirements.txt" in said
    assert "clone" not in said
    assert "-e ." not in said
    assert "--constraint constraints.txt" in wanted
    assert (released / "constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()

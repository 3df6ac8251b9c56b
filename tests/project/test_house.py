"""The house: what may import what, how long files may be, and that the wheel holds the tree."""

import ast
import configparser
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest
from long_tests import LONG

import cai
from cai.models import bridge

ROOT = Path(__file__).parents[2]
FLOORS = {"models": ("cai.models",), "inference": ("cai.models", "cai.inference"), "cai": ("cai",)}


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("floor", FLOORS)
def test_arrows_point_down_only(floor):
    for path in sources(floor):
        for name in imports(path):
            assert name.split(".")[0] not in ("models", "inference"), f"{path} imports {name}: write cai.{name}"
            if name == "cai" or name.startswith("cai."):
                assert any(name == own or name.startswith(f"{own}.") for own in FLOORS[floor]), f"{path} imports {name}"


@pytest.mark.parametrize("folder", ["models", "inference"])
def test_the_folders_cannot_be_imported_by_their_own_names(folder):
    command = [sys.executable, "-c", f"import {folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"import it as 'cai.{folder}'" in done.stderr


def test_files_can_be_read_in_one_sitting():
    for path in sources("models", "inference", "cai"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_root_namespace_is_small_and_real():
    assert len(cai.__all__) <= 30
    for name in cai.__all__:
        assert hasattr(cai, name), name


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = set()
    for path in sources("cai", "models", "inference"):
        assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"
        parts = path.parent.relative_to(ROOT).parts
        found.add(".".join(parts if parts[0] == "cai" else ("cai", *parts)))
    assert listed == found


@pytest.mark.parametrize("compiler", [True, False])
def test_the_wheel_holds_the_tree(compiler, tmp_path):
    """Nothing of an older build either; one library for every Python where it could be built, else none."""
    if compiler and shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler here")
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("cai", "models", "inference", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    for folder in ("lib", f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"):
        (copy / "build" / folder / "cai").mkdir(parents=True)
        (copy / "build" / folder / "cai" / "stale.py").touch()
    settings = {"CXXFLAGS": "-O0"} if compiler else {"CC": "/missing/cc", "CXX": "/missing/c++"}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    platform = re.sub("[-.]", "_", sysconfig.get_platform()) if compiler else "any"
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    assert compiler or "the native loops were not built" in done.stdout + done.stderr
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    want = {"cai/inference/kernels/native/loops.so"} if compiler else set()
    for folder in ("cai", "models", "inference"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".cpp", ".h") or path.name == "py.typed":
                inside = path.relative_to(ROOT).as_posix()
                want.add(inside if folder == "cai" else f"cai/{inside}")
    assert held == want


def test_readme_code_prints_what_the_readme_says(capsys, monkeypatch):
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    said = text.split("```text\n")[1].split("```")[0]
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == said.split()


def test_the_backend_of_the_contributing_notes_runs():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = textwrap.dedent(text.split("```py\n")[1].split("```")[0])
    names = {"__name__": "notes"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    for options in ({}, {"discount": 0.9}, {"horizon": math.inf, "discount": 0.9}):
        prior, best = cai.compare(bridge(**options), [names["FollowThePrior"](), "variational"]).rows
        assert prior.status.ok, options
        assert prior.elbo == pytest.approx(prior.real_return, abs=1e-9), options
        assert prior.elbo < best.elbo, options


def test_every_long_test_is_there():
    for name in LONG:
        path, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / "tests" / path).read_text(), name

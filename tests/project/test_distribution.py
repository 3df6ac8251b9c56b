"""What is handed out: a source distribution that holds the tree, types that users' checkers read, hooks that lint."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GOOD = """
import cai
from cai.models import MDP, TrajectoryModel, bridge

model: TrajectoryModel = bridge(slip=0.2, horizon=20)
posterior = cai.infer(model, "exact")
status: str = posterior.status.label
policy = cai.extract_policy(posterior)
entries: dict[str, object] = cai.compare(model, ["exact"], map=map, folder=None).to_dict()
dial = cai.sweep("bridge", "exact", seeds=range(3), model_options={"slip": [0.0, 0.1]})
mean = dial.over_seeds()["luck"].mean()
boot = cai.inverse.bootstrap(model, None, 20)
lower = boot.intervals()["lower"]
"""

WRONG = {
    "cai.infer(model, 3)": "call-overload",
    "cai.compare(model, backend=['exact'])": "call-arg",
    "cai.compare(model, ['exact'], map=3)": "arg-type",
    "cai.sweep(model, 'exact', seeds=5)": "arg-type",
    "wrong: int = posterior.status.label": "assignment",
    "model.horizonn": "attr-defined",
    "MDP(transition=1)": "call-arg",
}


def installed(folder):
    """A copy of the package as pip lays it out; where `make types` left one, that, as mypy knows it already."""
    left = ROOT / "build" / "types"
    if (left / "cai" / "models").is_dir():
        return left
    shutil.copytree(ROOT / "cai", folder / "cai")
    for name in ("models", "inference"):
        shutil.copytree(ROOT / name, folder / "cai" / name)
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


@pytest.mark.campaign
def test_a_users_type_checker_reads_our_types_and_finds_wrong_calls(tmp_path):
    lines = (GOOD + "\n".join(WRONG)).splitlines()
    (tmp_path / "theirs.py").write_text("\n".join(lines))
    (tmp_path / "package").mkdir()
    where = installed(tmp_path / "package")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(tmp_path / "theirs.py")],  # strict, by the settings of the copy
        cwd=where,
        env={"MYPYPATH": ".", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for line in done.stdout.splitlines():
        if line.count("theirs.py:") and ": error:" in line:
            number = int(line.split("theirs.py:")[1].split(":")[0])
            found[lines[number - 1]] = line.rsplit("[", 1)[1].rstrip("]")
    assert found == WRONG, done.stdout + done.stderr


@pytest.mark.campaign
def test_the_source_distribution_holds_every_file_of_the_tree(tmp_path):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a clone, which says what belongs to the tree")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = done.stdout.splitlines()
    copy = tmp_path / "tree"
    for name in listed:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    subprocess.run(build, cwd=copy, capture_output=True, check=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert set(listed) - held == {".gitignore"}


def test_hooks_before_a_commit_run_what_make_lint_runs():
    import yaml

    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("\nlint:")[1].split("\n\n")[0].splitlines()[1:]
    linted = {tuple(word for word in line.split() if word not in ("$(BIN)/ruff", ".")) for line in recipe}
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooked = {
        tuple(word for word in hook["entry"].split()[1:] if word != "--force-exclude") for hook in source["hooks"]
    }
    assert source["repo"] == "local"
    assert hooked == linted

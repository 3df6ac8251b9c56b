"""Plug-ins that print, exit, raise or are something else at import: the others work, and the output stays its own."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys

import pytest

import cai
from cai.inference import available_backends
from cai.inference.registry import make_backend
from cai.models import available_models, available_rewards, build_model, build_reward
from cai.models.common.plugins import load_plugins

MODULES = {
    "good": '''
import os
print("hello from Python")
os.write(1, b"hello from C\\n")
from cai.inference import SumProduct
from cai.models import lottery

class Mine(SumProduct):
    """The exact posterior."""
    name = "mine"

    def run(self, model, *, seed=0):
        print("hello from a run")
        return super().run(model, seed=seed)

def poker(*, horizon=1):
    """A lottery."""
    print("hello from a model")
    return lottery(horizon=horizon)

def shy(*, horizon=1):
    """Cannot be built."""
    raise RuntimeError("no table today")

number = 3
''',
    "exits": 'import sys\nprint("bye")\nsys.exit("no licence")\n',
    "quits": "raise SystemExit\n",
    "raises": "1 / 0\n",
    "stops": "class Stop(BaseException): pass\nraise Stop('enough')\n",
}
GROUPS = ("backends", "models", "rewards")
BROKEN = ("exits", "quits", "raises", "stops")


def make_distribution(folder):
    for name, text in MODULES.items():
        (folder / f"{name}_of_a_test.py").write_text(text)
    lines = []
    for group in GROUPS:
        own = {"backends": "Mine", "models": "poker", "rewards": "number"}[group]
        lines += [f"[cai.{group}]", f"mine = good_of_a_test:{own}"]
        lines += [f"{name} = {name}_of_a_test:thing" for name in BROKEN]
        if group == "backends":
            lines += ["no-backend = good_of_a_test:poker", "exact = good_of_a_test:Mine"]
        if group == "models":
            lines += ["shy = good_of_a_test:shy", "number = good_of_a_test:number"]
    info = folder / "things_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: things-of-a-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    make_distribution(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(f"{name}_of_a_test", None)


@pytest.mark.usefixtures("plugins")
def test_one_that_is_broken_takes_nothing_with_it(capsys, caplog):
    assert "mine" in available_backends()
    assert "mine" in available_models()
    assert not {*BROKEN, "number", "no-backend"} & {*available_backends(), *available_models(), *available_rewards()}
    assert available_backends()["exact"].__name__ == "SumProduct"
    assert capsys.readouterr().out == ""
    for words in (
        "backend plug-in exits (exits_of_a_test:thing) cannot be loaded: it ended the program at import (exit code 'no "
        "licence')",
        "reward plug-in quits (quits_of_a_test:thing) cannot be loaded: it ended the program at import",
        "model plug-in raises (raises_of_a_test:thing) cannot be loaded: ZeroDivisionError",
        "model plug-in stops (stops_of_a_test:thing) cannot be loaded: Stop('enough')",
        "model plug-in number (good_of_a_test:number) cannot be loaded: TypeError",
        "backend plug-in no-backend (good_of_a_test:poker) cannot be loaded: TypeError('it is no backend class",
        "backend plug-in exact (good_of_a_test:Mine) is not used: the name belongs to a built-in backend",
    ):
        assert words in caplog.text


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("make", [make_backend, build_model, build_reward])
@pytest.mark.parametrize("name", BROKEN)
def test_its_name_says_why(make, name):
    with pytest.raises(ValueError, match=rf"plug-in {name} \({name}_of_a_test:thing\) cannot be loaded: "):
        make(name)


def test_ctrl_c_is_no_fault_of_a_plug_in(monkeypatch):
    class Point:
        name, value = "slow", "slow:thing"

        def load(self):
            raise KeyboardInterrupt

    monkeypatch.setattr("cai.models.common.plugins.entry_points", lambda group: [Point()])
    with pytest.raises(KeyboardInterrupt):
        load_plugins("cai.backends", ())


def program(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "cai", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_json_is_json_whatever_a_plug_in_prints(plugins):
    done = program(plugins, "compare", "mine", "--backend", "mine", "--json")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["rows"]] == ["success"]
    assert done.stdout.count("\n") == 1
    for words in ("Python", "C", "a run", "a model"):
        assert f"hello from {words}" in done.stderr


def test_lists_show_what_works(plugins):
    done = program(plugins, "models")
    assert done.returncode == 0
    assert "│ mine " in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("│ shy ")]
    assert "cannot be built" in line
    assert "no table today" in line


HANDLED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # not so in the background
WAITS_AT_IMPORT = """
import sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "MODULE":
            print("begun", flush=True, file=sys.stderr)
            time.sleep(60)
sys.meta_path.insert(0, Finder())
"""
WAITS_AT_THE_END = """
import sys, time
class Last:
    def __del__(self, print=print, error=sys.stderr, sleep=time.sleep):
        print("begun", flush=True, file=error)
        sleep(1.0)
last = Last()
"""


def interrupted(folder, start):
    """What `cai compare bridge --out ...` gives if it is interrupted where `start` says "begun"."""
    (folder / "sitecustomize.py").write_text(f"{HANDLED}\n{start}")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    words = ["/usr/bin/cai", "compare", "bridge", "--out", str(folder / "out")]
    code = f"import sys; sys.argv = {words!r}; from cai.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("module", ["torch", "pyro", "cai.cli", "cai.studies.comparison"])
def test_ctrl_c_while_importing_is_quiet(module, tmp_path):
    assert interrupted(tmp_path, WAITS_AT_IMPORT.replace("MODULE", module)) == (130, "", "error: interrupted\n")


def test_ctrl_c_at_work_is_one_line(tmp_path):
    code, out, err = interrupted(tmp_path, WAITS_AT_IMPORT.replace("MODULE", "cai.saving"))  # after the tables
    assert (code, err) == (130, "error: interrupted\n")
    assert "What each backend believes" in out


def test_ctrl_c_once_all_is_done_changes_nothing(tmp_path):
    code, out, err = interrupted(tmp_path, WAITS_AT_THE_END)
    assert (code, err) == (0, "")
    assert "What each backend believes" in out


def test_versions_of_entry_points_are_read_once_a_call(monkeypatch):
    calls = []

    def counted(**options):
        calls.append(options)
        return importlib.metadata.entry_points(**options)

    monkeypatch.setattr("cai.models.common.plugins.entry_points", counted)
    assert cai.infer(build_model("bridge"), "exact").status.ok
    assert not calls  # nobody asked for a name that is not built in

"""The example distribution of tutorials/plugin_example, installed by pip into a folder of its own, and used."""

import json
import logging
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cai
from cai.cli import main
from cai.models import Goal, StepCost, available_models, available_rewards, bridge, build_model, build_reward

EXAMPLE = Path(__file__).parents[3] / "tutorials" / "plugin_example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip installed into: without an index, from a copy, since building writes beside the sources."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("target")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


@pytest.fixture
def plugged(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "cai_tides"]:
        sys.modules.pop(name)


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.mark.usefixtures("plugged")
def test_its_rewards_are_known_by_name():
    entries = available_rewards()
    assert entries["tide"].options == ("states", "price", "period")
    assert entries["tide"].summary.startswith("Charges for wading, the more the higher")
    assert entries["daylight"].options == ()
    assert entries["daylight"].summary.startswith("Charges 0.1 for every step")
    model = build_model("tidal-flats")
    tide = build_reward("tide", states="flats", price=3.0, period=6)
    model = model.replace(reward=model.reward + tide + build_reward("daylight").at(states=~model.mdp.terminal))
    for t in range(model.steps):
        table = model.reward_table(t).expand(model.mdp.probabilities.shape)
        for s, name in enumerate(model.mdp.state_names):
            for a in range(2):
                for k in range(2):
                    following = model.mdp.state_names[int(model.mdp.next_states[s, a, k])]
                    want = -0.5 + 5.0 * (following == "island") - 0.1 * (t >= 7)
                    want -= 3.0 * (1 + math.sin(2 * math.pi * t / 6)) / 2 * (name == "flats")
                    assert float(table[s, a, k]) == pytest.approx(want if name != "island" else 0.0, abs=1e-12)


@pytest.mark.usefixtures("plugged")
def test_its_model_and_backend_are_known_by_name():
    assert "island" in available_models()["tidal-flats"].summary
    table = cai.compare(build_model("tidal-flats", horizon=6), ["follow-the-prior", "variational"])
    assert [row.status.ok for row in table.rows] == [True, True]
    assert table.rows[0].elbo < table.rows[1].elbo


@pytest.mark.usefixtures("plugged")
def test_on_the_command_line(capsys):
    code, out, _ = run(["rewards"], capsys)
    assert code == 0
    assert "tide" in out
    assert "daylight" in out
    arguments = ["compare", "tidal-flats", "--backend", "exact", "--json"]
    code, out, _ = run(
        [*arguments, "--reward", "tide:states=flats,price=3,period=6", "--reward", "step-cost:cost=0.1"], capsys
    )
    assert code == 0
    model = build_model("tidal-flats")
    by_hand = model.reward + build_reward("tide", states="flats", price=3, period=6) + StepCost(0.1)
    want = float(cai.infer(model.replace(reward=by_hand), "exact").log_evidence)
    assert json.loads(out)["rows"][0]["log_evidence"] == pytest.approx(want, abs=1e-12)


def test_built_in_rewards_by_name():
    model = bridge(horizon=5)
    pairs = (
        (build_reward("goal:states=goal,value=3"), Goal("goal", 3.0)),
        (build_reward("goal", states="goal", value=3.0), Goal("goal", 3.0)),
        (build_reward("step-cost:cost=2"), StepCost(2.0)),
    )
    for named, made in pairs:
        torch.testing.assert_close(
            model.replace(reward=named).reward_table(0), model.replace(reward=made).reward_table(0), rtol=0, atol=0
        )
    assert list(available_rewards())[:4] == ["goal", "waypoint", "step-cost", "distance"]


REFUSED = {
    "unknown": ("mist", r"no reward is called 'mist'; known are goal, waypoint"),
    "unknown option": ("goal:depth=2", r"'goal'.*depth.*takes states, value"),
    "missing option": ("goal", r"'goal'.*states.*takes states, value"),
    "no option": ("goal:states", r"'states' in reward 'goal:states' is no option; write NAME:option=value"),
    "wrong type": ("step-cost:cost=dear", r"cost of StepCost is 'dear'; expected one number"),
    "unknown state": ("goal:states=moon", r"no state is called 'moon'"),
}


@pytest.mark.parametrize(("text", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals_on_the_command_line(text, pattern, capsys):
    code, _, said = run(["compare", "bridge", "--reward", text], capsys)
    assert code == 2
    assert re.search(pattern, said)
    assert said.count("\n") == 1


def test_a_broken_plugin_takes_nothing_with_it(tmp_path, monkeypatch, caplog):
    (tmp_path / "broken_rewards.py").write_text("number = 3\nraise_here = 1 / 0\n")
    (tmp_path / "odd_rewards.py").write_text('number = 3\n\n\ndef fine():\n    """A toll."""\n    return -1.0\n')
    info = tmp_path / "broken_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-rewards\nVersion: 1.0\n")
    points = (
        "broken = broken_rewards:number\nodd = odd_rewards:number\nfine = odd_rewards:fine\ngoal = odd_rewards:fine\n"
    )
    (info / "entry_points.txt").write_text(f"[cai.rewards]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING, logger="cai.models"):
        entries = available_rewards()
    assert "reward plug-in broken (broken_rewards:number) cannot be loaded: ZeroDivisionError" in caplog.text
    assert "reward plug-in odd (odd_rewards:number) cannot be loaded" in caplog.text
    assert "broken" not in entries
    assert entries["fine"].summary == "A toll."
    assert float(bridge(horizon=2).replace(reward=build_reward("fine")).reward_table(0)[0, 0, 0]) == -1.0
    assert entries["goal"].build is Goal  # a built-in name cannot be replaced
    with pytest.raises(TypeError, match="a factor itself needs no building"):
        build_reward(StepCost(1.0))
    sys.modules.pop("odd_rewards", None)

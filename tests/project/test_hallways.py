"""The hallway of the benchmark of fine-tuning: its walls, its pay, and how steps are counted."""

import importlib.util
import math

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks import fine_tuning, learning


def far_after(steps):
    """Whether a mass that is pushed along from rest is far away: x = .1 sum_i v_i, v_i = 2 (1 - .9^i)."""
    return 0.1 * sum(2 * (1 - 0.9**i) for i in range(1, steps + 1)) > fine_tuning.FAR


def test_a_push_along_the_hallway_earns_what_its_motion_says():
    assert fine_tuning.pushed_along() == sum(far_after(steps) for steps in range(1, fine_tuning.LENGTH + 1))


@pytest.mark.parametrize("walls", [True, False])
def test_walls_stop_the_mass(walls):
    check_env(fine_tuning.PointMass(walls), skip_render_check=True)
    for push in ([0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]):
        returns = []
        mass = fine_tuning.PointMass(walls, returns)
        mass.reset()
        for _ in range(fine_tuning.LENGTH):
            mass.step(np.array(push))
        assert returns == [0.0 if walls else fine_tuning.pushed_along()]
        assert (float(np.abs(mass.velocity).max()) == 0.0) == walls


def test_steps_are_counted_until_five_episodes_in_a_row_are_good(monkeypatch, capsys):
    earned = {"scratch": [0, 0, 30, 39, 39, 39, 39, 39], "fine-tuned": [0, 39, 0, 0, 0, 0, 0, 0]}
    asked = []

    def learned(world, backend, *, initial=None, **options):
        asked.append((backend, initial, options["seed"]))
        if len(asked) > 1:
            name = "scratch" if initial is None else "fine-tuned"
            world.source().returns.extend(earned[name])
        return "networks"

    monkeypatch.setattr(fine_tuning.cai, "infer", learned)
    found = fine_tuning.hallways(1, 400)
    assert found == [{"scratch": 300.0, "fine-tuned": math.inf}]  # (0 + 30 + 3 * 39) / 5 >= .7 * 39 after six
    assert [initial for _, initial, _ in asked] == [None, None, "networks"]
    assert "seed 0: 300 steps from scratch, inf after" in capsys.readouterr().out


def test_the_peers_walk_among_the_goals_or_are_named():
    if importlib.util.find_spec("stable_baselines3") is None:
        with pytest.raises(ImportError, match="stable_baselines3"):
            learning.peer_goal_shares("DDPG", 0, steps=40, warmup_steps=30)
        return
    shares = learning.peer_goal_shares("DDPG", 0, steps=40, warmup_steps=30)
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)

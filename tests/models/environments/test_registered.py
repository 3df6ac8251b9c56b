"""Models of the zoo under Gymnasium ids."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import cai.models
from cai.models.continuous.world import World
from cai.models.environments.registration import gymnasium_id
from cai.models.zoo.registry import zoo_entries

IDS = sorted(name for name in gymnasium.registry if name.startswith("cai/"))


def test_every_model_whose_actions_are_all_available_is_registered():
    assert "cai/Bridge-v0" in IDS
    assert "cai/FourRooms-v0" in IDS
    for entry in zoo_entries():
        if entry.name in gymnasium.registry:  # Gymnasium's own
            continue
        model = entry.build()
        if isinstance(model, World):
            space = cai.models.environment(model).action_space
            fits = bool(np.isfinite(space.high).all())
        else:
            fits = bool(model.mdp.available.all())
        assert (gymnasium_id(entry.name) in IDS) == fits == entry.environment, entry.name


@pytest.mark.parametrize("name", IDS)
def test_it_follows_gymnasium(name):
    layout = "rgb_array" in gymnasium.make(name).metadata["render_modes"]
    made = gymnasium.make(name, render_mode="rgb_array" if layout else None)
    check_env(made.unwrapped, skip_render_check=True)
    if layout:
        made.reset(seed=0)
        picture = made.render()
        assert picture.dtype == np.uint8
        assert picture.shape[-1] == 3
        assert (picture != picture[0, 0]).any()


def test_options_reach_the_model():
    made = gymnasium.make("cai/Bridge-v0", horizon=3, observe="index")
    assert made.observation_space.nvec.tolist() == [22, 4]
    worlds = gymnasium.make_vec("cai/Maze-v0", num_envs=3, vectorization_mode="vector_entry_point", observe="index")
    assert worlds.reset(seed=0)[0].shape == (3, 2)


def test_gymnasium_may_be_imported_last():
    code = "import cai.models; import gymnasium.envs; gymnasium.make('cai/Bridge-v0'); print(gymnasium.__spec__.loader)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SourceFileLoader" in done.stdout

"""Histories for TensorBoard."""

import importlib.util
import math

import pytest
import torch

import cai
from cai.inference import SoftQLearning
from cai.models import environment_model

SMALL = {"hidden_sizes": (8,), "batch_size": 8, "updates_per_step": 0.02, "warmup_steps": 20}


def cartpole():
    return environment_model("CartPole-v1", discount=0.9, temperature=1.0)


@pytest.mark.filterwarnings("ignore")  # of TensorBoard's own imports
def test_the_history_is_written_once_though_the_run_was_cut(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {**SMALL, "num_envs": 4, "tensorboard": True}
    cai.infer(cartpole(), "soft-q-learning", steps=1000, folder=tmp_path / "run", **options)
    answer = cai.resume(tmp_path / "run", steps=2000)
    found = reader.EventAccumulator(str(tmp_path / "run" / "log")).Reload()
    history = answer.details["history"]
    for name in ("episode_return", "temperature", "critic_loss"):
        curve = found.Scalars(name)
        assert [point.step for point in curve] == [1000, 2000]
        want = torch.as_tensor(history[name].values).float().tolist()
        assert [point.value for point in curve] == pytest.approx(want)
    assert "actor_loss" not in found.Tags()["scalars"]  # soft Q-learning has none
    assert math.isnan(float(history["actor_loss"][0]))


@pytest.mark.filterwarnings("ignore")  # of TensorBoard's own imports
def test_a_run_that_ends_between_records_is_written_to_its_end(tmp_path):
    """One that is shorter than a thousand transitions, too; answering again adds nothing, going on goes on."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, told = tmp_path / "run", []
    cai.infer(cartpole(), "soft-q-learning", steps=300, folder=run, **SMALL, tensorboard=True)
    for steps in (300, 1300, 1300):
        answer = cai.resume(run, steps=steps)
        found = reader.EventAccumulator(str(run / "log")).Reload()
        told.append([point.step for point in found.Scalars("critic_loss")])
    assert told == [[300], [300, 1000, 1300], [300, 1000, 1300]]
    assert found.Scalars("entropy")[-1].value == pytest.approx(float(answer.details["history"]["entropy"][-1]))


def test_what_cannot_be_written_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'control-as-inference\[tensorboard\]'"):
        SoftQLearning(tensorboard=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="tensorboard=True writes to the folder of a run; give folder="):
        cai.infer(cartpole(), "soft-q-learning", tensorboard=True, steps=30, **SMALL)

"""Answers of learners with networks travel: files, pickles and copies hold the same bits."""

import copy
import json
import math
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from network_worlds import Target, small_model, world_of
from torch import nn

import cai
from cai.inference import NotKnown
from cai.inference.core.storage import StorageError
from cai.models import environment_model

SMALL = {"hidden_sizes": (8,), "batch_size": 16, "updates_per_step": 0.3}
PENDULUM = {"discount": 0.9, "temperature": 0.7}
CASES = {
    "gaussian": ("Pendulum-v1", "soft-actor-critic", {"target_entropy": "auto"}),
    "flow": (None, "soft-actor-critic", {"policy": "flow"}),
    "numbers": ("CartPole-v1", "soft-actor-critic", {"target_kl": 0.2}),
    "soft-q": ("CartPole-v1", "soft-q-learning", {"entropy_form": True}),
    "stein": ("Pendulum-v1", "stein-soft-q-learning", {"num_particles": 4, "value_samples": 8}),
    "paths": ("CartPole-v1", "path-consistency", {"path_length": 3}),
    "own steps": ("Pendulum-v1", "policy-gradient", {"buffer_size": 32, "gae_lambda": 0.5}),
}


def by_pickle(answer, folder):
    return pickle.loads(pickle.dumps(answer))


def by_copy(answer, folder):
    return copy.deepcopy(answer)


def by_file(answer, folder):
    return cai.load(answer.save(folder / "answer"))


def learned(name, **further):
    world, backend, options = CASES[name]
    model = cai.models.multi_goal(horizon=4) if world is None else environment_model(world, **PENDULUM)
    return cai.infer(model, backend, steps=160, seed=5, **{**SMALL, **options, **further})


def asked(answer):
    """Everything that an answer is asked for."""
    interface = answer.policy().interface
    width = interface.size - (interface.horizon != math.inf)
    seen = np.random.default_rng(0).normal(size=(6, interface.size)).astype(np.float32)
    policy = answer.policy()
    found = [answer.value(seen), policy.act(seen[:, :width], generator=torch.Generator().manual_seed(1))]
    if hasattr(answer.brain, "q_values"):
        found.append(answer.q_value(seen, found[1]))
    if answer.has_density:
        found.append(policy.log_prob(found[1], seen[:, :width]))
    return [*found, answer.details["temperature"], answer.temperature]


@pytest.mark.parametrize("way", [by_pickle, by_copy, by_file])
@pytest.mark.parametrize("name", CASES)
def test_the_copy_holds_the_same_bits(name, way, tmp_path):
    answer = learned(name)
    found = way(answer, tmp_path)
    assert type(found) is type(answer)
    assert repr(found.policy()) == repr(answer.policy())
    for one, other in zip(asked(answer), asked(found), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    assert found.details["history"].identical(answer.details["history"])
    assert (found.elbo is None and answer.elbo is None) or float(found.elbo) == float(answer.elbo)
    assert float(found.believed_return) == float(answer.believed_return)
    assert found.details.get("standard_error") == answer.details.get("standard_error")
    assert (found.status, found.backend, found.entropy_form) == (answer.status, answer.backend, answer.entropy_form)
    assert not any(part.requires_grad for part in found.policy().parameters.values())


def test_files_hold_tensors_and_words_alone(tmp_path):
    folder = learned("gaussian").save(tmp_path / "answer")
    (file,) = folder.iterdir()
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    document = json.loads(header["__metadata__"]["cai"])
    assert document["kind"] == "learned-posterior"
    assert "packed-networks" in {entry["kind"] for entry in document["objects"]}
    assert b"cPickle" not in content
    assert not any(".exp_avg" in name for name in header)  # moments of optimisers stay behind


@pytest.mark.parametrize("way", [by_pickle, by_file])
def test_a_world_made_by_a_function_stays_behind_and_the_numbers_come_along(way, tmp_path):
    answer = cai.infer(
        environment_model(lambda: Target(), discount=1.0, temperature=0.5), "soft-actor-critic", steps=140, **SMALL
    )
    found = way(answer, tmp_path)
    assert found.model is None
    assert float(found.elbo) == float(answer.elbo)
    assert torch.equal(found.value(np.zeros((3, 1))), answer.value(np.zeros((3, 1))))
    assert "elbo" in repr(found)


def test_an_answer_goes_on_after_it_was_saved(tmp_path):
    first = learned("soft-q")
    options = {**SMALL, "entropy_form": True, "steps": 160}
    world = environment_model("CartPole-v1", **PENDULUM)
    runs = [cai.infer(world, "soft-q-learning", initial=i, **options) for i in (first, by_file(first, tmp_path))]
    assert torch.equal(*[run.brain.tensors()["critic"] for run in runs])


def leaning(observations):
    return torch.distributions.Categorical(logits=torch.tensor([0.0, 1.0]).expand(len(observations), 2))


def test_what_cannot_travel_is_refused(tmp_path):
    world = environment_model("CartPole-v1", action_prior=leaning, **PENDULUM)
    answer = cai.infer(world, "soft-q-learning", steps=120, **SMALL)
    assert torch.equal(asked(answer)[0], asked(by_pickle(answer, tmp_path))[0])  # the function has a name
    assert torch.equal(asked(answer)[0], asked(by_copy(answer, tmp_path))[0])
    with pytest.raises(StorageError, match="or its action prior is one, which stays behind"):
        answer.save(tmp_path / "prior")
    pendulum = environment_model("Pendulum-v1", **PENDULUM)
    own = cai.infer(pendulum, "soft-actor-critic", policy=nn.Linear(3, 2), steps=120, **SMALL)
    assert torch.equal(asked(own)[0], asked(by_pickle(own, tmp_path))[0])
    with pytest.raises(StorageError, match=r"setting.policy is a Linear, which cannot be saved"):
        own.save(tmp_path / "module")
    assert not (tmp_path / "module" / "cai.safetensors").exists()


def test_a_failed_answer_travels_without_episodes(tmp_path):
    world = environment_model(lambda: gymnasium.make("Pendulum-v1"), discount=0.99, temperature=2e-4)
    options = {"steps": 300, "target_entropy": -40.0, "learning_rate": 0.1, "throw": False}
    answer = cai.infer(world, "soft-actor-critic", **SMALL, **options)
    assert not answer.status.ok
    found = by_file(answer, tmp_path)
    assert found.details["why"] == answer.details["why"]
    with pytest.raises(NotKnown, match=r"what episodes come to: the world is gone; look at answer.elbo before"):
        _ = found.elbo


def test_histories_of_tables_come_along(tmp_path):
    answer = cai.infer(small_model(), "soft-q-learning", steps=320)
    found = by_file(answer, tmp_path)
    assert found.details["history"].identical(answer.details["history"])
    assert float(found.elbo) == float(answer.elbo)


def test_a_world_of_a_model_is_learned_in_after_loading(tmp_path):
    answer = cai.infer(world_of(small_model()), "soft-q-learning", steps=130, **SMALL)
    found = by_file(answer, tmp_path)
    mask = small_model().mdp.available
    assert torch.equal(found.value(np.eye(3), action_mask=mask), answer.value(np.eye(3), action_mask=mask))

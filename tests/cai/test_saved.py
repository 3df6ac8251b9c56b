"""What the top floor makes travels: files, pickles (also to a spawned process), deep copies; short to look at."""

import copy
import math
import multiprocessing
import pickle

import pytest
import torch
from gaussian_programs import gaussian

import cai
from cai.evaluation import evaluate_belief_policy, simulate
from cai.inference import SequentialMonteCarlo
from cai.models import lottery, tiger, tiger_observations
from cai.models.common.storage import StorageError
from cai.policies import BeliefPolicy
from cai.studies import limit_entries


def belief_policy():
    model = tiger()
    policy = BeliefPolicy(cai.extract_policy(cai.infer(model)), model, tiger_observations())
    policy.reset()
    return policy


def batch():
    return lottery().batch(temperature=[0.5, 1.0])


THINGS = {
    "comparison": lambda: cai.compare(lottery(), ["exact", "variational", "max-product"], num_rollouts=50),
    "comparison of a batch": lambda: cai.compare(batch(), ["exact"], num_rollouts=50),
    "comparison of a program": lambda: cai.compare(gaussian(2), [SequentialMonteCarlo(50)]),
    "sweep": lambda: cai.sweep(lottery(), "risk", eta=[-1.0, 0.0, 1.0], num_rollouts=50),
    "explanation": lambda: cai.explain_reward(lottery(), visits="lost"),
    "limit": lambda: limit_entries(lottery(), "lost", 0.1),
    "outcome": lambda: cai.evaluate(cai.extract_policy(cai.infer(lottery())), lottery(), num_rollouts=50),
    "outcomes": lambda: cai.evaluate(cai.extract_policy(cai.infer(lottery())), batch(), num_rollouts=50),
    "outcome in a program": lambda: cai.evaluate(particle_policy(), gaussian(2), num_rollouts=50),
    "policy": lambda: cai.extract_policy(cai.infer(lottery()), "greedy"),
    "particle policy": lambda: particle_policy(),
    "belief policy": belief_policy,
    "run": lambda: simulate(belief_policy(), tiger(), seed=1),
    "belief outcome": lambda: evaluate_belief_policy(belief_policy(), tiger(), 20),
}
HTML = ("comparison", "comparison of a batch", "sweep", "outcome", "policy")
MADE = {}


def made(name):
    if name not in MADE:
        MADE[name] = THINGS[name]()
    return MADE[name]


def particle_policy():
    return cai.extract_policy(cai.infer(gaussian(2), SequentialMonteCarlo(50)))


def content(thing):
    """Every number and word of a thing, as nested plain values."""
    if isinstance(thing, torch.Tensor):
        return thing.detach().tolist()
    if isinstance(thing, (str, bool, int, type(None))):
        return thing
    if isinstance(thing, float):
        return repr(thing)
    if isinstance(thing, dict) or hasattr(thing, "items"):
        return {key: content(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [content(value) for value in thing]
    if isinstance(thing, cai.Posterior):
        names = ("log_evidence", "elbo", "believed_return", "luck", "policy_entropy", "status")
        return [str(thing.target), *(content(getattr(thing, name)) for name in names)]
    if isinstance(thing, BeliefPolicy):
        return [content(thing.belief), content(thing.probs()), thing.t]
    if isinstance(thing, cai.TrajectoryModel):
        return [thing.name, str(thing.horizon), float(thing.temperature), thing.discount]
    if hasattr(thing, "__dataclass_fields__"):
        return {name: content(getattr(thing, name)) for name in thing.__dataclass_fields__ if name != "model"}
    if hasattr(thing, "__len__") and hasattr(thing, "__getitem__"):
        return [content(part) for part in thing]
    return str(thing)


@pytest.mark.parametrize("name", THINGS)
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    thing = made(name)
    path = thing.save(tmp_path / "thing")
    loaded = cai.load(path)
    assert type(loaded) is type(thing)
    assert content(loaded) == content(thing)


@pytest.mark.parametrize("name", [name for name in THINGS if "program" not in name])
def test_pickled_and_copied_it_is_the_same(name):
    thing = made(name)
    assert content(pickle.loads(pickle.dumps(thing))) == content(thing)
    assert content(copy.deepcopy(thing)) == content(thing)


def _contents(pickles):
    return [content(pickle.loads(one)) for one in pickles]


def test_a_spawned_process_reads_all_of_it():
    names = [name for name in THINGS if "program" not in name]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_contents, ([pickle.dumps(made(name)) for name in names],))
    assert found == [content(made(name)) for name in names]


def test_what_was_loaded_makes_the_same_tables_and_pictures(tmp_path):
    for name in ("comparison", "sweep", "explanation"):
        loaded = cai.load(made(name).save(tmp_path / name))
        assert loaded.to_frame().equals(made(name).to_frame())
        assert len(loaded.plot().axes) == len(made(name).plot().axes)


def test_a_program_s_comparison_comes_back_without_the_program(tmp_path):
    loaded = cai.load(made("comparison of a program").save(tmp_path / "thing"))
    assert loaded.model is None
    assert loaded.to_dict()["rows"] == made("comparison of a program").to_dict()["rows"]


@pytest.mark.parametrize("name", THINGS)
def test_it_is_short_to_look_at(name):
    assert len(repr(made(name)).splitlines()) < 10
    assert len(repr(made(name))) < 800


def test_a_long_comparison_is_short_to_look_at():
    comparison = cai.studies.Comparison(lottery(), made("comparison").rows * 100)
    assert len(repr(comparison)) < 400
    assert "and 292 more rows" in repr(comparison)


@pytest.mark.parametrize("name", HTML)
def test_notebooks_show_a_table(name):
    text = made(name)._repr_html_()
    assert text.count("<table") == text.count("</table>") == 1
    assert "<script" not in text


def test_words_in_tables_are_escaped():
    policy = cai.Policy([[0.5, 0.5]], state_names=["<b>"], action_names=["<i>", "&"], source="<u>")
    text = policy._repr_html_()
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert "<u>" not in text


def test_a_damaged_file_is_named(tmp_path):
    path = made("outcome").save(tmp_path / "thing")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"thing' is damaged"):
        cai.load(path)
    with pytest.raises(FileNotFoundError):
        cai.load(tmp_path / "nothing")
    assert math.isfinite(made("outcome").expected_return)

"""Answers travel: pickled (also to a fresh process), deep-copied, saved and loaded, every number stays what it was."""

import copy
import math
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from example_programs import windy
from gaussian_programs import gaussian
from methods import ALL, LEARNED, SAMPLED

import cai
from cai.inference import infer
from cai.inference.core.posterior import NUMBERS
from cai.inference.core.status import InferenceError, NotKnown
from cai.inference.core.storage import StorageError, load
from cai.models import bridge

TABLES = ("values", "q_values", "action_probs", "action_prior", "initial", "state_marginals", "absorbed")
WAYS = ("pickle", "deepcopy", "save")


def numbers_of(answer):
    """Everything an answer says, by name; what it does not know is None."""
    found = {}

    def ask(name, question):
        try:
            found[name] = question()
        except NotKnown:
            found[name] = None

    for name in NUMBERS + TABLES:
        ask(name, partial(getattr, answer, name))
    ask("dynamics", lambda: answer.dynamics(-1))
    ask("luck_map", lambda: answer.luck_map(0))
    ask("s_1", lambda: answer.marginal("s_1"))
    if answer.horizon != math.inf:
        ask("a_1", lambda: answer.marginal("a_1"))
        ask("states", lambda: answer.sample(7, seed=3).states)
        ask("scores", lambda: answer.log_prob(*answer.sample(7, seed=3)))
    return {name: None if part is None else part.detach() for name, part in found.items()}


def sent(answer, way, folder):
    if way == "pickle":
        return pickle.loads(pickle.dumps(answer))
    if way == "deepcopy":
        return copy.deepcopy(answer)
    return load(answer.save(folder / "answer"))


def same(found, expected, exactly=True):
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        if part is None or not exactly:
            assert (found[name] is None) == (part is None), name
        if part is not None:
            torch.testing.assert_close(found[name], part, rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)


def tabular(method):
    """An answer of the method to a small problem with a good chance to succeed."""
    for seed in range(100):
        problem = method.problem(seed, horizon=2, forbidden=False)
        answer = method.backend.run(problem.model, seed=1)
        if answer.status.ok:
            return answer
    raise AssertionError("no problem was answered")


@pytest.fixture(scope="module")
def answers():
    """One answer of every backend, by its name, as it is before anything was looked at."""
    return {str(method): tabular(method) for method in ALL + SAMPLED + LEARNED}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ALL + SAMPLED + LEARNED, ids=str)
def test_a_copy_holds_the_same_numbers(method, way, answers, tmp_path):
    answer = answers[str(method)]
    early = sent(copy.copy(answer), way, tmp_path)  # what is computed later travels uncomputed
    expected = numbers_of(answer)
    same(numbers_of(early), expected)
    late = sent(answer, way, tmp_path)
    same(numbers_of(late), expected)
    assert late.status is answer.status
    assert late.target is answer.target
    assert late.details.keys() - {"left_behind"} <= answer.details.keys()
    assert repr(late) == repr(answer)
    if not str(method).startswith(("enumeration",)):
        assert torch.equal(cai.extract_policy(late).action_probs, cai.extract_policy(answer).action_probs)


def test_a_fresh_process_reads_them_all(answers, tmp_path):
    for name, answer in answers.items():
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(answer))
        answer.save(tmp_path / name)
    code = (
        "import pickle, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\nimport torch, cai\nfrom cai.inference.core.storage import load\n"
        "from test_travel import numbers_of\n"
        "for file in sorted(Path(sys.argv[1]).glob('*.pickle')):\n"
        "    both = numbers_of(pickle.loads(file.read_bytes())), numbers_of(load(file.with_suffix('')))\n"
        "    file.with_suffix('.numbers').write_bytes(pickle.dumps(both))\n"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", code, str(tmp_path), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, answer in answers.items():
        for found in pickle.loads((tmp_path / f"{name}.numbers").read_bytes()):
            same(found, numbers_of(answer))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", ["values", "evidence"])
@pytest.mark.parametrize("horizon", [5, math.inf])
@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_kept_words_and_stationary_answers_travel(backend, horizon, keep, way, tmp_path):
    model = bridge(discount=0.9, horizon=horizon, temperature=0.7)
    answer = infer(model, backend, keep=keep)
    same(numbers_of(sent(answer, way, tmp_path)), numbers_of(answer))
    same(numbers_of(sent(answer, way, tmp_path)), numbers_of(answer))  # now that they were looked at


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["enumeration", "variational", "optimistic", "smc"])
def test_answers_to_programs_travel(backend, way, tmp_path):
    program = windy(2)  # a closure, which Python cannot pickle
    answer = infer(program, backend, seed=1)
    found = sent(answer, way, tmp_path)
    same(numbers_of(found), numbers_of(answer))
    assert found.model is (program if way == "deepcopy" else None)
    for site in answer.sites:
        assert torch.equal(found.marginal(site), answer.marginal(site)), site


@pytest.mark.parametrize("way", WAYS)
def test_particles_travel(way, tmp_path):
    answer = infer(gaussian(3), "smc", num_particles=40, seed=2)
    found = sent(answer, way, tmp_path)
    for site, values in answer.particles.values.items():
        assert torch.equal(found.particles.values[site], values)
    assert torch.equal(found.sample(5, seed=1).states, answer.sample(5, seed=1).states)
    assert found.log_evidence == answer.log_evidence
    assert repr(found) == repr(answer)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["exact", "max-product"])
def test_batches_travel(backend, way, tmp_path):
    batch = bridge(horizon=6).batch(temperature=[0.5, 1.0, 2.0])
    answers = infer(batch, backend)
    found = sent(answers, way, tmp_path)
    assert torch.equal(found.elbo, answers.elbo)
    torch.testing.assert_close(found.values, answers.values, rtol=1e-12, atol=0)
    assert found.statuses == answers.statuses
    for one, other in zip(found, answers, strict=True):
        same(numbers_of(one), numbers_of(other))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_stay_behind_and_the_copy_says_so(way, tmp_path):
    alpha = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    answer = infer(bridge(horizon=4, temperature=1.0).replace(temperature=2 * alpha), "exact")
    found = sent(answer, way, tmp_path)
    assert answer.log_evidence.requires_grad
    assert not found.log_evidence.requires_grad
    assert not found.q_values.requires_grad
    assert "left behind" in found.details["gradients"]
    same(numbers_of(found), numbers_of(answer))


def test_a_batch_of_a_thousand_pickles_small():
    batch = bridge(horizon=3).batch(temperature=torch.linspace(0.5, 2, 300))
    size = len(pickle.dumps(infer(batch, "exact")))
    assert size < 300 * 20_000, "a member that is a view must not carry the tables of all"


def test_failures_travel_from_workers():
    with pytest.raises(InferenceError) as caught:
        infer(bridge(horizon=3).replace(reward=-math.inf), "exact")
    found = pickle.loads(pickle.dumps(caught.value))
    assert str(found) == str(caught.value)
    assert found.status is caught.value.status


def test_what_files_cannot_hold_is_named(tmp_path):
    answer = infer(bridge(horizon=2), "exact").replace(details={"hook": print, "note": "kept"})
    found = load(answer.save(tmp_path / "answer"))
    assert found.details["note"] == "kept"
    assert found.details["left_behind"] == ("hook",)


def test_a_damaged_answer_names_the_field(tmp_path):
    answer = infer(bridge(horizon=2), "exact")
    (file,) = answer.save(tmp_path / "answer").iterdir()
    content = bytearray(file.read_bytes())
    content[-5] ^= 255
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"damaged at field recursion-posterior\."):
        load(tmp_path / "answer")


def test_asking_for_what_a_kind_does_not_have_is_one_error_with_a_sentence():
    answer = infer(gaussian(2), "smc", num_particles=30, seed=1)
    for question in (
        lambda: answer.values,
        lambda: answer.luck_by_state(),
        lambda: answer.dynamics(0),
        lambda: answer.marginal("s_1"),
        lambda: answer.log_prob([[0, 0]], [[0]]),
    ):
        with pytest.raises(NotKnown, match=r"^the particle answer of backend 'smc' does not know .*; ") as caught:
            question()
        assert isinstance(caught.value, ValueError)
    with pytest.raises(AttributeError, match="has no attribute 'valeus'"):
        _ = answer.valeus
    with pytest.raises(AttributeError, match="frozen"):
        answer.backend = "other"


def test_repr_computes_nothing():
    for answer in (infer(bridge(horizon=3), "exact"), infer(bridge(horizon=3), "risk:eta=0.5")):
        before = dict(answer.__dict__)
        text = repr(answer) + answer._repr_html_()
        assert answer.__dict__.keys() == before.keys()
        assert "luck" not in text
        assert answer.backend in text


def test_a_batch_of_answers_is_shown_as_a_table_that_computes_nothing():
    batch = bridge(horizon=3).batch(temperature=[0.5, 1.0])
    for backend in ("exact", "risk:eta=0.5"):
        answers = infer(batch, backend)
        before = dict(answers.__dict__)
        text = answers._repr_html_()
        assert answers.__dict__.keys() == before.keys()
        assert text.startswith("<table>")
        assert "<td>2</td>" in text
        assert "2 success" in text
        assert len(repr(answers).splitlines()) == 1


def test_marginals_of_a_model_are_those_of_its_program():
    model = bridge(horizon=3, discount=0.8)
    exact, enumerated = infer(model, "exact"), infer(model, "enumeration")
    for site in exact.sites:
        torch.testing.assert_close(exact.marginal(site), enumerated.marginal(site), rtol=0, atol=1e-10, msg=site)
    assert exact.marginal("a_2").sum() == pytest.approx(1)
    assert exact.marginal("s_4").shape == (model.mdp.num_states,)
    for site, words in (("O_1", "observed"), ("s_9", "no latent site 's_9'; there are s_1, a_1"), ("x", "there are")):
        with pytest.raises(ValueError, match=words):
            exact.marginal(site)
    endless = infer(bridge(horizon=math.inf, discount=0.8), "exact")
    assert torch.equal(endless.marginal("s_1"), endless.initial)
    with pytest.raises(ValueError, match="infinite horizon"):
        endless.marginal("s_2")

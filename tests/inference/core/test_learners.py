"""Runs that are cut short, killed and resumed: the answer has the same bits as that of a run that nothing stopped."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import killed_runs
import pytest
import torch
from killed_runs import RUNS
from torch import nn

import cai
from cai.inference import InferenceError, Status
from cai.inference.core.driver import Checkpoints
from cai.inference.core.storage import StorageError, load
from cai.models import bridge, lottery

THREADS = torch.get_num_threads()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of all killed runs; each has met its end by SIGKILL."""
    folder = tmp_path_factory.mktemp("killed")
    tests = Path(killed_runs.__file__).parent
    code = f"import sys; sys.path.append({str(tests)!r}); import killed_runs as k; k.main({str(folder)!r}, {THREADS})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tests.parent)
    assert json.loads(done.stdout) == dict.fromkeys(RUNS, -signal.SIGKILL)
    return folder


def same(got, want):
    assert got.status is want.status
    for name in ("elbo", "action_probs", "state_marginals", "believed_return", "policy_divergence"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    for name, value in want.details.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got.details[name], value), name
        elif not isinstance(value, nn.Module):
            assert got.details[name] == value, name
    return True


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_same_bits(killed, name):
    model, backend, options, *_ = RUNS[name]
    given = {"policy": options["policy"]} if name == "module" else {}
    if "program" in name:
        given["model"] = model()
    folder = killed / name
    want = cai.infer(model(), backend, seed=7, throw=False, **options)
    stored = load(folder / "state.safetensors")["state"]
    assert stored["status"] is None
    assert stored["steps"] > 0
    got = cai.resume(folder, throw=False, checkpoint_seconds=math.inf, **given)
    assert same(got, want)
    assert same(cai.resume(folder, throw=False, **given), want)  # a run that has ended answers again
    files = {path.name for path in folder.iterdir()}
    assert {"run.safetensors", "state.safetensors"} <= files


def test_how_often_a_run_is_stored_changes_nothing(tmp_path):
    model = bridge(horizon=3)
    want = cai.infer(model, "restricted")
    for number, schedule in enumerate(({"checkpoint_every": 1}, {"checkpoint_seconds": 1e-9}, {})):
        assert same(cai.infer(model, "restricted", folder=tmp_path / str(number), **schedule), want)


def test_a_run_that_ended_at_its_limit_goes_on_with_a_higher_one(tmp_path):
    model = bridge(horizon=3)
    short = cai.infer(model, "restricted", folder=tmp_path / "run", max_iterations=3, throw=False)
    assert short.status is Status.NOT_CONVERGED
    assert short.details["steps"] == 3
    with pytest.raises(InferenceError, match="not converged"):
        cai.resume(tmp_path / "run")
    assert same(cai.resume(tmp_path / "run", max_iterations=1000), cai.infer(model, "restricted"))


LEARNERS = {
    "svi": ("variational", {"solver": "svi"}),
    "optimistic": ("optimistic", {"solver": "svi"}),
    "enumerated": ("restricted", {}),
    "sampled": ("restricted", {"gradient": "sampled", "num_samples": 10, "num_eval_samples": 50}),
    "em": ("em", {"tolerance": 1e-300}),
    "posterior policy iteration": ("posterior-policy-iteration", {"tolerance": 1e-300}),
    "kl policy iteration": ("kl-policy-iteration", {"epsilon": 1e-3}),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_ctrl_c_gives_the_best_answer_so_far_and_the_run_can_go_on(name, monkeypatch, caplog, tmp_path):
    backend, options = LEARNERS[name]
    offer = Checkpoints.offer

    def interrupted(self, state):
        offer(self, state)
        if state.steps == 2:
            raise KeyboardInterrupt

    model = bridge(horizon=3)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "offer", interrupted)
        got = cai.infer(model, backend, throw=False, folder=tmp_path / "run", **options)
    assert got.status is Status.NOT_CONVERGED
    assert "interrupted after 2 steps; the best answer so far is kept" in caplog.text
    assert torch.isfinite(got.elbo)
    again = cai.resume(tmp_path / "run", throw=False, max_seconds=1e-9)
    assert same(again, got)


def test_a_limit_of_time_needs_no_folder(caplog):
    got = cai.infer(bridge(horizon=4), "restricted", max_seconds=1e-9, throw=False)
    assert got.status is Status.NOT_CONVERGED
    assert "the time was over" in caplog.text


def test_steps_are_pure():
    """A step leaves the state that it was given as it was: taken again, it gives the same bits."""
    model = bridge(horizon=3)
    backends = [
        cai.inference.StructuredVariational(solver="svi"),
        cai.inference.RestrictedVariational(gradient="sampled", num_samples=10),
        cai.inference.RestrictedVariational(killed_runs.aliased()),
        cai.inference.EMPolicySearch(),
        cai.inference.KLPolicyIteration(),
    ]
    for backend in backends:
        learner = backend.learner(model)
        state = learner.init(model, seed=3)
        state, _ = learner.step(state)
        first = learner.posterior(state)
        after = [learner.step(state)[0] for _ in range(2)]
        assert torch.equal(*(learner.posterior(found).action_probs for found in after)), backend
        assert torch.equal(learner.posterior(state).action_probs, first.action_probs), backend


def cut_off(path, place=-40):
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content[:place]))


def test_what_a_folder_says_when_it_cannot_go_on(tmp_path):
    model = bridge(horizon=3)
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="folder is '', which stands for no folder"):
        cai.infer(model, "restricted", folder="")
    cai.infer(model, "restricted", folder=folder)
    with pytest.raises(FileExistsError, match=r"holds a run already; cai.resume\("):
        cai.infer(model, "restricted", folder=folder)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        cai.resume(tmp_path)
    with pytest.raises(ValueError, match=r"another model: its horizon is not the same"):
        cai.resume(folder, model=bridge(horizon=4))
    with pytest.raises(ValueError, match=r"another model: its reward is not the same"):
        cai.resume(folder, model=model.replace(reward=model.reward + 1.0))
    with pytest.raises(ValueError, match=r"another model: its (states|.*) is not the same"):
        cai.resume(folder, model=lottery())
    assert same(cai.resume(folder, model=bridge(horizon=3)), cai.infer(model, "restricted"))
    cut_off(folder / "state.safetensors")
    with pytest.raises(StorageError, match=r"state.safetensors.*damaged"):
        cai.resume(folder)
    cut_off(folder / "run.safetensors")
    with pytest.raises(StorageError, match=r"run.safetensors.*damaged"):
        cai.resume(folder)


def test_a_state_of_another_learner_is_refused(tmp_path):
    cai.infer(bridge(horizon=3), "restricted", folder=tmp_path / "one")
    cai.infer(bridge(horizon=3), "em", folder=tmp_path / "two")
    (tmp_path / "one" / "state.safetensors").replace(tmp_path / "two" / "state.safetensors")
    with pytest.raises(StorageError, match=r"no state of this run's learner.*start anew"):
        cai.resume(tmp_path / "two")


def test_what_no_file_can_hold_is_asked_for(tmp_path):
    policy = killed_runs.module()
    cai.infer(bridge(horizon=3), "restricted", policy=policy, max_iterations=2, folder=tmp_path / "a", throw=False)
    with pytest.raises(ValueError, match=r"was given policy=.*which no file can hold.*resume\(folder, policy="):
        cai.resume(tmp_path / "a")
    with pytest.raises(ValueError, match="began with another policy"):
        cai.resume(tmp_path / "a", policy=nn.Linear(23, 4))
    cai.infer(killed_runs.program, "variational", folder=tmp_path / "b")
    with pytest.raises(ValueError, match=r"about a program.*give it again: cai.resume\(folder, model="):
        cai.resume(tmp_path / "b")
    with pytest.raises(ValueError, match=r"another model: its horizon"):
        cai.resume(tmp_path / "b", model=lambda: bridge(horizon=4)())


def test_a_run_whose_folder_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileExistsError, match="file' is a file; the run needs a folder"):
            cai.infer(bridge(horizon=3), "restricted", folder=path)
    assert (tmp_path / "file").read_text() == "mine"


BAD = {
    "no iterations": (lambda path: cai.infer(lottery(), "exact", folder=path), "answers this model without a run"),
    "closed form": (lambda path: cai.infer(lottery(), "variational", max_seconds=1.0), "answers this model without"),
    "every": (lambda path: cai.infer(lottery(), "em", folder=path, checkpoint_every=0), "checkpoint_every is 0"),
    "seconds": (lambda path: cai.infer(lottery(), "em", folder=path, checkpoint_seconds=0), "checkpoint_seconds is 0"),
    "a batch": (
        lambda path: cai.infer(lottery().batch(temperature=[1.0, 2.0]), "em", folder=path),
        "for the run of one model",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_questions_without_a_run(name, tmp_path):
    ask, pattern = BAD[name]
    with pytest.raises(ValueError, match=pattern):
        ask(Path(tmp_path) / "run")
    assert not (tmp_path / "run").exists()

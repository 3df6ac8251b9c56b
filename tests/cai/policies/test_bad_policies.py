"""Bad policies, files and evaluations are refused."""

import numpy as np
import pytest
import torch
from refusals import INF, NAN, UNIFORM, changed, check, evaluated, mdp, model, partly, refuse
from safetensors.torch import save_file

from cai.evaluation.evaluate import evaluate
from cai.inference import infer
from cai.models.common.storage import save
from cai.policies.policy import Policy, extract_policy

# ---- policies ----------------------------------------------------------------------------------------------------


POLICIES = {
    "sum": (lambda: Policy(changed(UNIFORM, ((1, 2, 0), 0.6))), r"action_probs\[1, 2\].*1\.1\b.*divide"),
    "negative": (lambda: Policy([[1.5, -0.5]]), r"action_probs\[0, 0, 1\].*negative.*-0\.5"),
    "nan": (lambda: Policy([[NAN, 1.0]]), r"action_probs\[0, 0, 0\].*not finite"),
    "inf": (lambda: Policy([[INF, 1.0]]), r"action_probs\[0, 0, 0\].*not finite"),
    "[A]": (lambda: Policy([0.5, 0.5]), r"action_probs has shape \[2\].*\[T, S, A\] or \[S, A\]"),
    "[1, T, S, A]": (lambda: Policy(UNIFORM[None]), r"action_probs has shape \[1, 3, 3, 2\].*\[T, S, A\]"),
    "empty": (lambda: Policy(np.zeros((0, 3, 2))), r"action_probs has shape \[0, 3, 2\].*\[T, S, A\]"),
    "text": (lambda: Policy("greedy"), TypeError, r"action_probs.*<U6.*real numbers"),
    "complex": (lambda: Policy(UNIFORM * 1j), TypeError, r"action_probs.*complex128.*real"),
    "None": (lambda: Policy(None), TypeError, r"action_probs.*real numbers"),
    "ragged": (lambda: Policy([[1.0], [0.5, 0.5]]), r"action_probs.*ragged.*equal length"),
    "stationary tables": (lambda: Policy(UNIFORM, stationary=True), r"stationary.*one table.*3"),
    "state names": (lambda: Policy(UNIFORM, state_names=("a",)), r"state_names holds 1.*3"),
    "action names": (lambda: Policy(UNIFORM, action_names=("a", "b", "c")), r"action_names holds 3.*2"),
    "time": (lambda: Policy(UNIFORM).probs(0, 3), r"time index 3.*0 to 2.*longer horizon.*math\.inf"),
    "sampled time": (lambda: Policy(UNIFORM).sample(0, 99), r"time index 99.*0 to 2.*longer horizon"),
    "greedy time": (lambda: Policy(UNIFORM).greedy(0, -1), r"time index -1.*0 to 2"),
    "state": (lambda: Policy(UNIFORM).probs(3), r"state 3 does not exist.*0 to 2"),
    "negative state": (lambda: Policy(UNIFORM).greedy(-1), r"state -1 does not exist.*0 to 2"),
    "kind": (lambda: extract_policy(infer(model(), "exact"), "best"), r"kind is 'best'.*'greedy', 'plan'"),
}


@refuse(POLICIES)
def test_policies(build, error, pattern):
    check(build, error, pattern)


FILES = {
    "text": lambda path: path.write_text("not a policy"),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "another table": lambda path: save_file({"weights": torch.ones(2)}, str(path)),
    "another format": lambda path: save_file({"action_probs": torch.ones(2)}, str(path), metadata={"format": "x"}),
    "bad header": lambda path: save_file({"action_probs": torch.ones(1, 1, 1)}, str(path), metadata={"cai": "{"}),
    "cut off": lambda path: path.write_bytes(Policy(UNIFORM).save(path).read_bytes()[:-8]),
}


@pytest.mark.parametrize("write", list(FILES.values()), ids=list(FILES))
def test_a_file_that_is_no_policy(write, tmp_path):
    path = tmp_path / "policy.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"policy\.safetensors'.*(damaged|nothing that cai wrote)"):
        Policy.load(path)


def test_a_file_of_another_kind(tmp_path):
    save(tmp_path / "table", torch.ones(2))
    with pytest.raises(ValueError, match=r"table' holds a Tensor; expected policy"):
        Policy.load(tmp_path / "table")


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing saved at .*missing\.safetensors"):
        Policy.load(tmp_path / "missing.safetensors")


def test_a_folder_is_no_policy(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=r"nothing saved"):
        Policy.load(tmp_path)


# ---- the true world ----------------------------------------------------------------------------------------------


EVALUATIONS = {
    "states": (lambda: evaluated(np.full((3, 4, 2), 0.5)), r"policy is for 4 states and 2 actions.*model has 3 and 2"),
    "actions": (lambda: evaluated(np.full((3, 3, 1), 1.0)), r"3 states and 1 actions.*model has 3 and 2"),
    "short": (lambda: evaluated(UNIFORM[:2]), r"knows 2 steps.*has 3.*longer horizon"),
    "unavailable": (
        lambda: evaluated(problem=model(process=partly())),
        r"takes action 0 in state 1 at time index 0.*not available",
    ),
    "unavailable later": (
        lambda: evaluated(changed(UNIFORM, ((slice(0, 2), 1), [0.0, 1.0])), model(process=partly())),
        r"takes action 0 in state 1 at time index 2.*not available",
    ),
    "unavailable by name": (
        lambda: evaluated(
            problem=model(
                process=mdp(
                    available=[[True, True], [False, True], [True, True]],
                    state_names=["a", "b", "c"],
                    action_names=["stay", "go"],
                )
            )
        ),
        r"takes action stay in state b.*not available",
    ),
    "finite for an infinite horizon": (
        lambda: evaluated(problem=model(horizon=INF, discount=0.9)),
        r"infinite.*finitely many.*stationary one, as Policy\(table, stationary=True\)",
    ),
    "no policy": (lambda: evaluated("exact"), TypeError, r"expected a Policy, got str.*extract_policy"),
    "no model": (lambda: evaluate(Policy(UNIFORM), mdp()), TypeError, r"TrajectoryModel.*got MDP"),
    "rollouts": (lambda: evaluated(num_rollouts=1), r"num_rollouts is 1.*at least 2"),
    "tail 0": (lambda: evaluated(tail=0.0), r"tail is 0.*\(0, 1\]"),
    "tail nan": (lambda: evaluated(tail=NAN), r"tail is nan.*\(0, 1\]"),
    "region": (lambda: evaluated(regions={"exit": [9]}), r"state 9 does not exist.*0 to 2"),
}


@refuse(EVALUATIONS)
def test_evaluations(build, error, pattern):
    check(build, error, pattern)

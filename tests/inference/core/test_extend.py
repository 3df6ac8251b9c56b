"""The documented surface for plug-ins: its names are there, and what the examples use is no more than that."""

import ast
import math
from pathlib import Path

import pytest
import torch

import cai
from cai.inference import Status, extend
from cai.inference.extend import (
    ConvergenceCriterion,
    FixedDynamics,
    Recursion,
    Target,
    closed_form_posterior,
    fixed_backup,
    policy_posterior,
    soft_policy,
    tabular_posterior,
)
from cai.models import MDP, TrajectoryModel, random_mdp

EXAMPLE = Path(__file__).parents[3] / "tutorials" / "plugin_example"


class Someone:
    """What `policy_posterior` reads of a backend."""

    name, target = "someone", Target.OTHER


def test_every_name_is_there_and_documented():
    for name in extend.__all__:
        found = getattr(extend, name)
        assert name in ("EXACT", "FIXED") or (found.__doc__ or "").strip(), name


def test_the_example_imports_the_documented_surface_alone():
    sources = list(EXAMPLE.rglob("*.py"))
    assert sources
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cai":
                assert node.module in ("cai", "cai.models", "cai.inference", "cai.inference.extend"), path


@pytest.mark.parametrize("options", [{}, {"discount": 0.8}, {"horizon": math.inf, "discount": 0.8}], ids=str)
def test_a_policy_a_recursion_and_tables_give_the_same_answer(options):
    """Soft control built by hand from each of the three ways in, against the built-in backend."""
    model = random_mdp(3, **({"horizon": 6} | options))
    want = cai.infer(model, "variational", tolerance=1e-12)
    by_policy = policy_posterior(Someone, model, want.action_probs)
    by_recursion = closed_form_posterior(
        model,
        Recursion(fixed_backup, soft_policy, 0.0),
        backend="mine",
        target=Target.OTHER,
        settling=ConvergenceCriterion(tolerance=1e-12),
    )
    answers = [by_policy, by_recursion]
    if model.is_finite:
        answers.append(
            tabular_posterior(
                model,
                backend="mine",
                target=Target.OTHER,
                status=Status.SUCCESS,
                log_evidence=None,
                elbo=None,
                values=want.values / model.temperature,
                q_values=want.q_values / model.temperature,
                policy=want.action_probs,
                initial=model.mdp.initial,
                dynamics=FixedDynamics(model),
            )
        )
    for got in answers:
        assert got.status.ok
        for name in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
            assert float(getattr(got, name)) == pytest.approx(float(getattr(want, name)), abs=1e-8), name
        assert torch.allclose(got.values, want.values, atol=1e-8)
        assert torch.allclose(got.q_values, want.q_values, atol=1e-8)


def loop(rewards, terminal=True):
    """State 0 stays for ever under action 0, and ends under action 1."""
    mdp = MDP([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2], [1.0, 0.0], terminal=[1])
    return TrajectoryModel(mdp, rewards, horizon=math.inf)


def test_policies_that_never_end_or_meet_what_is_forbidden_say_so():
    stays, leaves = (torch.tensor([[row, [0.5, 0.5]]], dtype=torch.float64) for row in ([1.0, 0.0], [0.0, 1.0]))
    got = policy_posterior(Someone, loop([[-1.0, -1.0], [0.0, 0.0]]), stays)
    assert got.status is Status.DIVERGED
    assert "never end" in got.details["why"]
    assert got.values is got.elbo is got.believed_return is None
    got = policy_posterior(Someone, loop([[-1.0, -3.0], [0.0, 0.0]]), leaves)
    assert got.status.ok
    assert float(got.believed_return) == -3.0
    assert float(got.elbo) == pytest.approx(-3.0 - math.log(2))
    got = policy_posterior(Someone, loop([[-1.0, -math.inf], [0.0, 0.0]]), leaves)
    assert float(got.elbo) == -math.inf
    assert not got.details.get("why")

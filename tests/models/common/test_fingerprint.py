"""Equal questions have one fingerprint, in every process; whatever differs between two changes it."""

import functools
import itertools
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import cai
from cai.inference import RiskSensitive
from cai.models import bridge, double_integrator, lottery, pendulum
from cai.models.common.fingerprint import fingerprint


def closed_over(value):
    return lambda x: x + value


def with_constant(text):
    """A function whose code differs in what `text` says alone."""
    names = {"TABLE": [1.0, 2.0], "__name__": "theirs"}
    exec(f"def inner(x):\n    return x + {text}\n\ndef outer(x, y=2):\n    return inner(x) * len(TABLE)\n", names)
    return names["outer"]


def weights(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 1)


DIFFERENT = {
    "numbers": [0, 0.0, 1, 1.0, True, None, "1", b"1", -0.0, math.inf, math.nan, 1j],
    "containers": [[], (), {}, [1], (1,), {"a": 1}, {"b": 1}, {1}, [[1], 2], [1, [2]], range(3)],
    "tables": [
        *(
            torch.zeros(2),
            torch.zeros(2, dtype=torch.float64),
            torch.zeros(1, 2),
            torch.ones(2),
            np.zeros(3),
            np.zeros(0),
        ),
        np.array(["a", "b"], dtype=object),
    ],
    "frames": [
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({"b": [1, 2]}),
        pd.DataFrame({"a": [1.0, 2.0]}),
        pd.DataFrame({"a": [1, 2]}, index=[1, 0]),
        pd.DataFrame({"a": ["1", None]}),
        pd.Series([1, 2]),
        pd.Index([1, 2]),
    ],
    "functions": [
        *(closed_over(1), closed_over(2), closed_over(torch.zeros(2)), math.exp, math.log),
        *(with_constant("1"), with_constant("2"), with_constant("x")),
        *(functools.partial(closed_over, 1), functools.partial(closed_over, value=1)),
    ],
    "models": [
        *(bridge(), bridge(slip=0.3), bridge(horizon=5), bridge().replace(temperature=2.0), lottery()),
        *(lottery().batch(temperature=[1.0, 2.0]), lottery().batch(temperature=[1.0, 3.0])),
        *(double_integrator(), double_integrator(horizon=3), pendulum(), pendulum(horizon=3)),
    ],
    "backends": [RiskSensitive(1.0), RiskSensitive(2.0), *(cai.available_backends()[n]() for n in ("exact", "smc"))],
    "modules": [weights(0), weights(1), nn.Linear(2, 1, bias=False), nn.Tanh()],
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_differs_has_another_fingerprint(kind):
    found = [fingerprint(value) for value in DIFFERENT[kind]]
    for i, j in itertools.combinations(range(len(found)), 2):
        assert found[i] != found[j], (DIFFERENT[kind][i], DIFFERENT[kind][j])


@pytest.mark.parametrize(
    "make",
    [
        bridge,
        double_integrator,
        pendulum,
        lambda: lottery().batch(temperature=[1.0, 2.0]),
        lambda: closed_over([1, 2.5]),
        lambda: with_constant("1"),
        lambda: weights(3),
        lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        lambda: {"a": [torch.arange(3), {"set", "of", "words"}]},
    ],
)
def test_what_is_built_anew_has_the_same(make):
    assert fingerprint(make()) == fingerprint(make())


def test_looking_at_a_model_changes_nothing():
    for model in (bridge(), double_integrator()):
        before = fingerprint(model)
        cai.evaluate(cai.extract_policy(cai.infer(model, "exact")), model, num_rollouts=5)
        cai.infer(model, "variational")
        assert fingerprint(model) == before


def test_circles_end():
    circle = []
    circle.append(circle)
    assert fingerprint(circle) != fingerprint([[]])


@pytest.mark.campaign
def test_another_process_finds_the_same():
    """Words in sets are hashed differently in each process."""
    words = "{'one', 'two', 'three'}"
    code = f"from cai.models.common.fingerprint import fingerprint; print(fingerprint({{'a': {words}}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint({"a": eval(words)})

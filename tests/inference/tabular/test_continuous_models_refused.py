"""Backends on tables say of a continuous model which backends take it."""

import pytest
import torch

import cai
from cai.models import ContinuousModel, LinearNormal

MODEL = ContinuousModel(
    torch.zeros(1), lambda s, a, t: torch.sin(s + a), lambda s, a, t: -(s[..., 0] ** 2), 2, LinearNormal(L=[[1.0]])
)


@pytest.mark.parametrize("backend", ["exact", "risk", "max-product", "value-iteration", "boltzmann"])
def test_the_refusal_names_what_takes_it(backend):
    options = {"eta": -1.0} if backend == "risk" else {}
    with pytest.raises(ValueError, match=r"use 'ilqr', 'mppi', 'smc', or cai.models.discretize\(model, ...\)"):
        cai.infer(MODEL, backend, **options)


@pytest.mark.parametrize("backend", ["enumeration", "variational", "optimistic"])
def test_enumeration_names_the_grid(backend):
    with pytest.raises(ValueError, match=r"cai\.models\.discretize"):
        cai.infer(MODEL, backend)

"""Gradients of bound and evidence where costs are many orders apart, held against differences of ninety digits."""

import mpmath
import numpy as np
import pytest
import torch
from gaussian_digits import many_digits, precise
from test_square_roots import as_model, problem

import cai
from cai.inference import NotKnown
from cai.inference.gaussian import envelope, rooted

NAMES = ("A", "B", "c", "W", "C", "g", "Qf", "qf", "m1", "S1", "alpha", "K0", "k0", "L")
SYMMETRIC = ("W", "C", "Qf", "S1", "L")
STEP = mpmath.mpf(10) ** -30


def named(parts):
    A, B, c, W, C, g, final, initial, _, alpha, prior = parts
    return dict(zip(NAMES, (A, B, c, W, C, g, *final, *initial, alpha, *(prior or ())), strict=False))


def parts_of(values, horizon):
    A, B, c, W, C, g, Qf, qf, m1, S1, alpha, *prior = values.values()
    return [A, B, c, W, C, g, (Qf, qf), (m1, S1), horizon, alpha, tuple(prior) or None]


def slopes(answer, given):
    bound = answer.elbo if answer.log_evidence is None else answer.log_evidence
    return dict(zip(given, torch.autograd.grad(bound.sum(), list(given.values())), strict=True))


def recorded(values):
    return {
        name: torch.as_tensor(np.asarray(part, dtype=float)).clone().requires_grad_() for name, part in values.items()
    }


@pytest.mark.parametrize("name", ["variational", "exact"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("weight", [1e6, 1e10, 1e15])
def test_gradients_keep_fourteen_digits_less_a_few(weight, flat, name):
    parts = problem(int(weight) % 7, weight, flat=flat, noise=0.25)
    values, rng = named(parts), np.random.default_rng(0)
    given = recorded(values)
    found = slopes(cai.infer(as_model(*parts_of(given, 4)), name), given)
    for part, value in values.items():
        along = rng.normal(size=np.shape(value))
        along = along + along.T if part in SYMMETRIC else along
        ends = []
        for sign in (1, -1):
            moved = precise(value) + sign * STEP * precise(along)
            changed = values | {part: moved}
            ends.append(many_digits(*parts_of(changed, 4), float(name == "exact"))["start"])
        want = float((ends[0] - ends[1]) / (2 * STEP))
        size = float((found[part].abs() * torch.as_tensor(along).abs()).sum())
        assert abs(float((found[part] * torch.as_tensor(along)).sum()) - want) <= 1e-12 * size + 1e-9 * abs(want), part


@pytest.mark.parametrize("name", ["variational", "exact", "discounted"])
@pytest.mark.parametrize("flat", [True, False])
def test_they_are_those_of_the_plain_pass_where_it_keeps_its_digits(monkeypatch, flat, name):
    """Over time, a batch, and a discount."""
    values, found = named(problem(3, 16.0, flat=flat, noise=0.25, m=2)), []
    values["c"] = values["c"] * np.linspace(0.5, 1.5, 4)[:, None]
    values["B"] = values["B"] * np.linspace(1.5, 0.5, 4)[:, None, None]
    values["W"] = values["W"] * np.array([1.0, 2.0])[:, None, None, None]
    values["m1"] = values["m1"] * np.array([[1.0], [3.0]])
    monkeypatch.setitem(envelope.AGREE, torch.float64, -1.0)
    for apart in (np.inf, 0.0):
        monkeypatch.setitem(rooted.FAR_APART, torch.float64, apart)
        given = recorded(values)
        model = as_model(*parts_of(given, 4), discount=0.75 if name == "discounted" else 1.0)
        found.append(slopes(cai.infer(model, "exact" if name == "exact" else "variational"), given))
    for part, plain in found[0].items():
        assert torch.allclose(found[1][part], plain, rtol=0, atol=1e-11 * float(plain.abs().max())), part


def test_members_of_a_batch_have_the_gradients_of_those_asked_alone():
    parts = problem(4, 1.0, flat=False, noise=0.25)
    final, found = parts[6], []
    weights = torch.tensor([1.0, 2.0**40, 2.0**20]).double()
    for chosen in ([0, 1, 2], [0], [1], [2]):
        A = torch.as_tensor(parts[0]).clone().requires_grad_()
        weight = weights[chosen]
        parts[6] = (weight[:, None, None] * torch.as_tensor(final[0]), weight[:, None] * torch.as_tensor(final[1]))
        answer = cai.infer(as_model(A, *parts[1:]), "exact")
        found.append(torch.autograd.grad((answer.elbo / weight).sum(), A)[0])
    assert torch.allclose(found[0], sum(found[1:]), rtol=1e-10)


def test_second_derivatives_are_refused_where_the_plain_pass_has_lost_its_digits():
    parts = problem(3, 1e10, flat=True, noise=0.25)
    parts[3] = torch.as_tensor(parts[3]).clone().requires_grad_()
    bound = cai.infer(as_model(*parts), "exact").elbo
    slope = torch.autograd.grad(bound, parts[3], create_graph=True)[0]
    with pytest.raises(
        NotKnown, match=r"does not know second derivatives: .*; bring them nearer to each other, or take"
    ):
        torch.autograd.grad(slope.sum(), parts[3])

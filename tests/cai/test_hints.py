"""Hints in place of errors: each kind of mistake that students make is named, and right answers pass as they are."""

import math

import pytest
import torch

import cai
from cai.hints import ask
from cai.models import bridge


def undefined(x):
    return x + missing  # noqa: F821


def unset(x):
    if x is None:
        total = 0
    return total


MISTAKES = {
    "returns nothing": (lambda x: None, "end it with `return`"),
    "misspelt name": (undefined, "misspelt"),
    "no value yet": (unset, "before it has a value"),
    "math on a tensor": (lambda x: math.exp(x), "torch.exp"),
    "math of zero": (lambda x: math.log(0.0), "return -math.inf"),
    "overflow": (lambda x: math.exp(1e4), "log space"),
    "torch on a number": (lambda x: torch.exp(1.0), "math, or torch.as_tensor"),
    "if on a tensor": (lambda x: 1 if x > 0 else 0, "torch.where"),
    "missing axis": (lambda x: x + torch.ones(2), "x[:, None]"),
    "transpose missing": (lambda x: torch.linalg.solve(torch.eye(3), torch.ones(2, 3)), "is a .T missing"),
    "number for a tensor": (lambda x: torch.where(True, 1.0, 2.0), "torch functions take tensors"),
    "self left out": (lambda x: heights, "`self.` left out"),  # noqa: F821
    "masks subtracted": (lambda x: 1 - (x > 0), "joined by &"),
    "index too large": (lambda x: x[3], "row t - 1"),
    "too many indices": (lambda x: x[0, 0], "more indices than axes"),
    "no gradient": (lambda x: x.sum().backward(), "requires_grad=True"),
    "detached": (
        lambda x: torch.autograd.grad(torch.ones(1, requires_grad=True).sum(), x.requires_grad_()),
        "detached",
    ),
    "wrong arguments": (lambda: 1, "list of arguments"),
    "a number called": (lambda x: x.sum()(), "leave out its ()"),
    "one for several": (lambda x: list(object()), "one thing stands where several"),
    "no number": (lambda x: object() - object(), "no number"),
    "wrong kind": (lambda x: "a", "returns a str; expected one tensor"),
    "axis left": (lambda x: x[None], "an axis is left over"),
    "axis gone": (lambda x: x.sum(), "an axis is gone"),
    "wrong axis": (lambda x: torch.ones(4), "wrong axis"),
    "no order with None": (lambda x: None < 1, "None and a number"),
    "complex compared": (lambda x: torch.complex(x, x).max(), "modulus first"),
    "no inverse": (lambda x: torch.linalg.inv(torch.zeros(2, 2)), "no inverse"),
    "distribution out of range": (lambda x: torch.distributions.Normal(0.0, -x), "cannot take"),
    "broadcast": (lambda x: torch.distributions.Normal(0.0, x).log_prob(torch.ones(2)), "x[:, None]"),
    "an error returned": (lambda x: ValueError("no"), "has to be raised"),
    "changed in place": (lambda x: x.add_(1.0), "in place"),
    "marked for gradients": (lambda x: x.requires_grad_(), "for gradients"),
    "not a number": (lambda x: x * math.nan, "returns NaN"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_becomes_a_hint(mistake):
    function, hint = MISTAKES[mistake]
    with pytest.raises(AssertionError) as said:
        ask(function, torch.ones(3), shape=(3,))
    assert hint in str(said.value)


def test_a_pair_that_is_one_result_is_named():
    with pytest.raises(AssertionError, match="returns one result; expected 2"):
        ask(lambda x: x, torch.ones(3), parts=2)
    with pytest.raises(AssertionError, match="returns 2 results; expected 3"):
        ask(lambda x: (x, x), torch.ones(3), parts=3)
    assert ask(lambda x: (x, x), 1, parts=2) == (1, 1)


def test_right_answers_pass_as_they_are_with_infinities():
    answer = torch.tensor([0.0, -math.inf])
    assert ask(lambda: answer, shape=(2,)) is answer
    assert ask(lambda x: 3.5, 1, shape=()) == 3.5
    assert ask(lambda x, *, y: x + y, 1, y=2) == 3


def test_what_is_still_to_be_written_and_asserts_of_ones_own_go_through():
    def stub():
        raise NotImplementedError("write your answer here")

    def strict():
        assert False, "mine"  # noqa: B011, PT015

    with pytest.raises(NotImplementedError, match="write your answer here"):
        ask(stub)
    with pytest.raises(AssertionError, match="mine"):
        ask(strict)


def test_an_error_that_is_asked_for_is_returned_if_python_raised_it_and_nothing_compiled():
    def strict(x):
        raise RuntimeError("no convergence")

    assert str(ask(strict, 1, raises=RuntimeError)) == "no convergence"
    with pytest.raises(AssertionError, match=r"torch\.where"):
        ask(lambda x: 1 if x > 0 else 0, torch.ones(3), raises=RuntimeError)  # torch's is a RuntimeError, too
    with pytest.raises(AssertionError, match="stopped with"):
        ask(strict, 1, raises=ValueError)


def test_what_the_library_says_stands_alone_and_whole():
    model = bridge(horizon=3)
    policy = cai.extract_policy(cai.infer(model, "exact"))
    with pytest.raises(AssertionError, match=r"policy comes first, evaluate\(policy, model\)") as said:
        ask(cai.evaluate, model, policy)
    assert "Hint" not in str(said.value)
    with pytest.raises(AssertionError, match="says how many rollouts measure the spread") as said:
        ask(cai.evaluate, policy, model, episodes=20)
    assert "Hint" not in str(said.value)

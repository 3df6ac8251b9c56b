"""What a wrong number comes from: each relation to the right one is told, and right numbers pass in every form."""

import math

import numpy as np
import pytest
import torch

from cai.diagnosis import expect

RIGHT = torch.tensor([[0.5, -1.5, 2.25], [3.0, 0.75, -0.3]], dtype=torch.float64)
alpha = 7.0  # a variable of the "notebook", which functions below read


def of_alpha(values, gamma):
    return values * alpha


def of_gamma(values, gamma):
    return values * gamma


WRONG = {
    "sign": (-RIGHT, "the sign is wrong"),
    "nothing": (0 * RIGHT, "it is 0"),
    "factor": (0.5 * RIGHT, "the factor beta is missing"),
    "factor too many": (2.0 * RIGHT, "beta is one factor too many"),
    "factor twice": (4.0 * RIGHT, "twice too often"),
    "divided": (RIGHT / 4.0, "divided by beta"),
    "root": (math.sqrt(2.0) * RIGHT, "the root of beta"),
    "sign and factor": (-2.0 * RIGHT, "and the sign is wrong"),
    "nameless factor": (3.7 * RIGHT, "3.7 times"),
    "term": (RIGHT + 2.0, "beta too large"),
    "logarithm of a term": (RIGHT - math.log(2.0), "log beta too small"),
    "sign of a term": (RIGHT - 4.0, "the sign of beta"),
    "nameless term": (RIGHT + 0.123, "0.123 too large"),
    "exp": (RIGHT.exp(), "that is exp of it"),
    "square": (RIGHT.square(), "its square"),
    "complement": (1 - RIGHT, "1 minus it"),
    "absolute": (RIGHT.abs(), "absolute value"),
    "whole numbers": (RIGHT.long(), "whole numbers"),
    "clamped": (RIGHT.clamp(min=0), "clamped at 0"),
    "rows reversed": (RIGHT.flip(0), "reverse order"),
    "columns reversed": (RIGHT.flip(1), "reverse order"),
    "another order": (RIGHT.flatten()[[1, 0, 2, 4, 5, 3]].reshape(2, 3), "another order"),
    "NaN": (RIGHT * math.nan, "NaN comes of"),
    "infinite": (torch.where(RIGHT == 3.0, -math.inf, RIGHT), "at [1, 0] it is -inf"),
    "one entry": (torch.where(RIGHT == 3.0, 3.5, RIGHT), "in 1 of 6 entries, first at [1, 0]: it is 3.5"),
    "shape": (RIGHT[0], "an axis is gone"),
    "known cause": (RIGHT + 0.5 * RIGHT.square(), "a cause"),
    "term left out": (RIGHT - torch.arange(6).reshape(2, 3), "time is missing"),
    "term of the wrong sign": (RIGHT - 2 * torch.arange(6).reshape(2, 3), "time has the wrong sign"),
    "term twice": (RIGHT + torch.arange(6).reshape(2, 3), "time is in it twice"),
    "single precision": (RIGHT.float() + 1e-7, "single precision"),
    "no number": ("text", "a str where"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_number_is_told_what_it_comes_from(case):
    got, sentence = WRONG[case]
    causes = {"another": RIGHT + 100.0, "a cause": lambda: RIGHT + 0.5 * RIGHT.square()}
    terms = {"nothing": 0 * RIGHT, "time": torch.arange(6).reshape(2, 3)}
    with pytest.raises(AssertionError) as said:
        expect(got, RIGHT, "the table", causes=causes, terms=terms, numbers={"beta": 2.0})
    assert "the table" in str(said.value)
    assert sentence in str(said.value)


def test_shares_and_steps_have_sentences_of_their_own():
    shares = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)
    with pytest.raises(AssertionError, match="divide it by its sum"):
        expect(shares * torch.tensor([[2.0], [3.0], [0.5]]), shares, "shares")
    late = torch.cat([torch.zeros(1, 2), shares[:-1]])
    with pytest.raises(AssertionError, match="one step late"):
        expect(late, shares, "shares")
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(AssertionError, match="axes are exchanged"):
        expect(square.T, square, "a matrix")


def test_what_a_function_leaves_unused_or_reads_of_the_notebook_is_told():
    with pytest.raises(AssertionError, match=r"the argument `gamma` is not used$"):
        expect(RIGHT + 1, RIGHT, "a table", function=of_alpha)
    with pytest.raises(AssertionError, match="`gamma` is not used; it reads `alpha` of the notebook"):
        expect(RIGHT + 1, RIGHT, "a table", function=of_alpha, elsewhere=True)
    with pytest.raises(AssertionError, match="besides its arguments the function reads `alpha`"):
        expect(RIGHT + 1, RIGHT, "a table", function=of_alpha, spare=("gamma",), elsewhere=True)
    with pytest.raises(AssertionError, match="too large"):
        expect(RIGHT + 1, RIGHT, "a table", function=of_alpha, spare=("gamma", "alpha"), elsewhere=True)
    with pytest.raises(AssertionError, match="too large"):
        expect(RIGHT + 1, RIGHT, "a table", function=of_gamma, elsewhere=True)


@pytest.mark.parametrize(
    "right", [RIGHT, RIGHT.numpy(), RIGHT.tolist(), list(RIGHT), RIGHT.clone().requires_grad_(), np.asarray(RIGHT)]
)
def test_right_numbers_pass_in_every_form(right):
    expect(right, RIGHT, "a table", causes={"never": RIGHT + 1}, terms={"t": RIGHT}, numbers={"one": 1.0})
    expect(-math.inf, torch.tensor(-math.inf), "a number")

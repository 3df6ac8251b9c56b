"""Systems whose unknowns differ by orders of magnitude that float64 does not add."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from cai.inference.tabular.markov.linear_systems import SystemPattern


@pytest.mark.parametrize("number", [20, 160])
@pytest.mark.parametrize("spread", [15.0, 40.0])
def test_rho_does_not_depend_on_the_units_of_the_unknowns(number, spread):
    """D^-1 M D has the same rho; entries of D differ by e^100, so that (I - M)^-1 1 says nothing beside rounding."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rows = np.repeat(np.arange(number), 3)
        onward = [[(k + 1) % number, *rng.choice(number, 2, replace=False)] for k in range(number)]
        columns = np.array(onward, dtype=np.int64).ravel()
        shares = rng.random((number, 3)) ** 3 + 1e-3
        heights = spread * rng.normal(size=number)
        shares = (shares / shares.sum(1, keepdims=True)).ravel()
        pattern = SystemPattern(torch.from_numpy(rows), torch.from_numpy(columns), number)
        for rho in (0.9, 1 - 1e-6, 1 + 1e-9, 1.5):
            weights = rho * shares * np.exp(heights[columns] - heights[rows])
            found = pattern.system(torch.from_numpy(weights)).lengths
            assert (found is not None) == (rho < 1), (seed, rho)
            if rho == 0.9:
                plain = np.eye(number)
                np.add.at(plain, (rows, columns), -rho * shares)
                low = heights.max()
                want = np.log(np.linalg.solve(plain, np.exp(heights - low))) - heights + low
                assert np.allclose(found.log().numpy(), want, rtol=1e-9, atol=1e-9)


def test_what_is_rounding_of_the_solution_proves_nothing():
    """Rho(M) = 1 + 3.6e-18, by exact elimination; yet y computed, of 1e16 and more, seems to have (I - M) y > 0."""
    table = [
        [0.3333333333333333, 415746484614.4519, 10018847913876.94],
        [2.672568866436754e-13, 0.3333333333333333, 8.032818303657699],
        [1.1090208381865241e-14, 0.01383214544520661, 0.3333333333333333],
    ]
    left = [[Fraction(int(i == j)) - Fraction(table[i][j]) for j in range(3)] for i in range(3)]
    for k in range(3):
        for i in range(k + 1, 3):
            factor = left[i][k] / left[k][k]
            left[i] = [entry - factor * above for entry, above in zip(left[i], left[k], strict=True)]
    assert left[0][0] > 0
    assert left[1][1] > 0
    assert left[2][2] < 0  # so that I - M is no M-matrix, and sums over steps are infinite
    rows, columns = torch.ones(3, 3).nonzero(as_tuple=True)
    assert SystemPattern(rows, columns, 3).system(torch.tensor(table, dtype=torch.float64).flatten()).lengths is None


def test_a_chain_too_slow_for_floats_has_no_answer():
    """1 / 1e-310 is no float; elimination met it half way and raised an error of scipy's."""
    pattern = SystemPattern(torch.tensor([0]), torch.tensor([1]), 2)
    system = pattern.system(torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1e-310], dtype=torch.float64))
    assert system.lengths is None
    found = system.answer(np.ones((2, 1)))
    assert found is None or not np.isfinite(found).all()

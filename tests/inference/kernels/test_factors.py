"""Triangular solves over rows of right-hand sides, and sums along edges, against dense algebra."""

import numpy as np
import pytest
from native_kernel import needs_native
from scipy.sparse import csc_matrix, random_array
from scipy.sparse.linalg import splu

from cai.inference.kernels.native import factors
from cai.inference.kernels.native.factors import NativeFactors, edge_products
from cai.inference.tabular.routes.sums import RouteGraph, RouteSums


@needs_native
@pytest.mark.parametrize("count", [1, 7, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_factors_solve_both_sides_of_the_matrix(count, symmetric):
    rng = np.random.default_rng(count)
    matrix = csc_matrix(random_array((60, 60), density=0.1, rng=rng)) + 3 * csc_matrix(np.eye(60))
    if symmetric:
        factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    else:  # with rows exchanged
        matrix = csc_matrix(matrix.toarray()[rng.permutation(60)])
        factor = splu(matrix)
        assert (factor.perm_r != factor.perm_c).any()
    native, sides = NativeFactors(factor), rng.normal(size=(60, count))
    sides[rng.random(60) < 0.5] = 0.0
    for order in ("C", "F"):
        given = np.array(sides, order=order)
        np.testing.assert_allclose(native.solve(given), np.linalg.solve(matrix.toarray(), sides), atol=1e-11)
        turned = np.linalg.solve(matrix.toarray().T, sides)
        np.testing.assert_allclose(native.solve(given, trans="T"), turned, atol=1e-11)
        np.testing.assert_array_equal(given, sides)  # left as it was


@needs_native
@pytest.mark.parametrize("count", [1, 8, 13])
def test_products_along_edges(count):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 20, count))
    tails, heads = rng.integers(20, size=(2, 50))
    want = [sum(left[k, r] * right[a, r] for r in range(count)) for k, a in zip(tails, heads, strict=True)]
    np.testing.assert_allclose(edge_products(tails, heads, left, np.asfortranarray(right)), want, rtol=1e-12)


@needs_native
def test_sums_over_routes_are_the_same_without_the_loops(monkeypatch):
    """On a ring of 900 links with short cuts, in blocks of many destinations."""
    tails = np.concatenate([np.arange(900), np.arange(0, 900, 3)])
    heads = np.concatenate([(np.arange(900) + 1) % 900, (np.arange(0, 900, 3) + 5) % 900])
    graph = RouteGraph(900, tails, heads, np.arange(0, 900, 18), np.arange(50), 50)
    origins = {d: np.arange(900) for d in range(50)}

    def sums():
        made = RouteSums(graph, -0.7 + 0.1 * np.sin(np.arange(1200.0)), np.zeros(50))
        blocks = list(made.blocks(origins))
        return type(made.system._factor), np.concatenate([block.sums for block in blocks], 1)

    kind, found = sums()
    assert kind is NativeFactors
    monkeypatch.setattr("cai.inference.tabular.markov.linear_systems.available", lambda: False)
    monkeypatch.setattr(factors, "available", lambda: False)
    kind, plain = sums()
    assert kind is not NativeFactors
    np.testing.assert_allclose(found, plain, rtol=1e-12)
    assert edge_products(tails, heads, found, found) is None

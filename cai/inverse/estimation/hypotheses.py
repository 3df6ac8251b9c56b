"""Tests of hypotheses about coefficients: Wald and likelihood ratio (Wasserman 2004, chapter 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cai.models.common.names import did_you_mean
from cai.models.common.storage import storable

if TYPE_CHECKING:
    from cai.inverse.estimation.estimate import Estimate

__all__ = ["HypothesisTest", "likelihood_ratio", "two_sided", "wald_test"]


@storable("inverse-test")
class HypothesisTest(NamedTuple):
    """A statistic that is chi-squared with `degrees` degrees of freedom if the hypothesis is true."""

    statistic: float
    degrees: int
    p_value: float


def two_sided(z: float) -> float:
    """The probability that a standard normal is farther from 0 than z."""
    return math.erfc(abs(z) / math.sqrt(2)) if math.isfinite(z) else math.nan


def _result(statistic: float, degrees: int) -> HypothesisTest:
    from scipy.special import chdtrc

    return HypothesisTest(statistic, degrees, float(chdtrc(degrees, max(statistic, 0.0))))


def wald_test(estimate: Estimate, R: Any, r: Any) -> HypothesisTest:
    """(R w - r)' (R C R')^-1 (R w - r); see `Estimate.wald`."""
    free = list(estimate.free)
    rows = _rows(R, free)
    right = torch.as_tensor(r, dtype=torch.float64).reshape(-1)
    right = right.expand(len(rows)) if right.numel() == 1 else right
    if rows.shape[1] != len(free) or len(right) != len(rows):
        raise ValueError(
            f"R has shape {list(rows.shape)} and r {len(right)} entries; expected [Q, {len(free)}], a column for each "
            f"free coefficient ({', '.join(free)}), and [Q]"
        )
    covariance = estimate.covariance
    used = (rows != 0).any(0)
    if bool(covariance[used][:, used].isnan().any()):
        raise ValueError("R uses a coefficient without a standard error; test those that are identified")
    values = torch.tensor([float(estimate.coefficients[name]) for name in free], dtype=torch.float64)
    rows, values, covariance = rows[:, used], values[used], covariance[used][:, used]
    miss, spread = rows @ values - right, rows @ covariance @ rows.T
    size = spread.diagonal().clamp(min=0).sqrt()
    scaled = spread / size[:, None] / size
    if not bool((size > 0).all()) or float(torch.linalg.eigvalsh(scaled).min()) < 1e-10:
        raise ValueError("rows of R depend on each other, so they are fewer hypotheses than rows; leave some out")
    return _result(float(miss / size @ torch.linalg.solve(scaled, miss / size)), len(rows))


def _rows(given: Any, free: list[str]) -> Tensor:
    """[Q, F] from a matrix, a mapping, a name or names."""
    if isinstance(given, Mapping):
        parts = [given]
    elif isinstance(given, str):
        parts = [{given: 1.0}]
    elif isinstance(given, list | tuple) and given and all(isinstance(entry, str) for entry in given):
        parts = [{name: 1.0} for name in given]
    elif isinstance(given, list | tuple) and given and all(isinstance(entry, Mapping) for entry in given):
        parts = list(given)
    else:
        matrix = torch.as_tensor(given, dtype=torch.float64)
        return matrix if matrix.dim() == 2 else matrix.reshape(1, -1)
    rows = torch.zeros(len(parts), len(free), dtype=torch.float64)
    for row, part in zip(rows, parts, strict=True):
        for name, factor in part.items():
            if name not in free:
                raise ValueError(f"{name!r} is no free coefficient{did_you_mean(name, free)}; free: {', '.join(free)}")
            row[free.index(name)] = factor
    return rows


def _apart(small: Estimate, large: Estimate) -> str:
    """Which coefficient of a fit has a value that the other cannot give it, in words; nothing where there is none."""
    for name in dict.fromkeys([*small.coefficients.index, *large.coefficients.index]):
        digests = {fit.data.features[name] for fit in (small, large) if name in fit.data.features}
        if len(digests) > 1:
            return f"{name!r} weighs other numbers there"
        if name in large.free:
            continue
        held = float(large.coefficients.get(name, 0.0))
        if name in small.free:
            return f"{name!r} is free in it, and {held:g} in the other"
        if float(small.coefficients.get(name, 0.0)) != held:
            return f"{name!r} is {float(small.coefficients.get(name, 0.0)):g} in it, and {held:g} in the other"
    return ""


def likelihood_ratio(one: Estimate, other: Estimate) -> HypothesisTest | None:
    """2 (l - l'), l of the fit with more free coefficients; see `Estimate.likelihood_ratio`."""
    if one.objective != other.objective or one.form != other.form:
        raise ValueError(
            f"one fit has objective {one.objective!r} in the {one.form} form, the other {other.objective!r} in the "
            f"{other.form} form; compare fits of the same kind"
        )
    if one.objective == "moments" or one.penalised or other.penalised:
        return None
    if (one.num_demonstrations, one.num_choices) != (other.num_demonstrations, other.num_choices):
        raise ValueError(
            f"one fit has {one.num_demonstrations:g} demonstrations with {one.num_choices:g} choices, the other "
            f"{other.num_demonstrations:g} with {other.num_choices:g}; compare fits to the same demonstrations"
        )
    for what, mine, its in (
        ("demonstrations", one.data.demonstrations, other.data.demonstrations),
        ("network" if one.problem.kind == "network" else "model", one.data.world, other.data.world),
    ):
        if mine != its:
            raise ValueError(
                f"the two fits are not to the same {what}, though sizes agree; a ratio compares two fits to the same "
                "demonstrations in the same world: fit both again"
            )
    large, small = (one, other) if len(one.free) > len(other.free) else (other, one)
    degrees = len(large.free) - len(small.free)
    if not degrees:
        raise ValueError(
            f"both fits have {len(one.free)} free coefficients; one must be a special case of the other: fix some"
        )
    if not (large.status.ok and small.status.ok):
        raise ValueError("one of the two fits did not succeed; a ratio compares two maxima")
    why = _apart(small, large)
    if why:
        raise ValueError(
            f"the fit with {len(small.free)} free coefficients is no special case of the other: {why}; a ratio "
            "compares a fit with one that it contains, and aic any two fits to the same demonstrations"
        )
    return _result(2 * (large.log_likelihood - small.log_likelihood), degrees)

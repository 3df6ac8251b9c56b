"""The report of a fit as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cai.inverse.estimation.estimate import Estimate

__all__ = ["summary"]

WIDTH = 86


def summary(estimate: Estimate) -> str:
    """What was fitted and how, a table of coefficients with 95% intervals, then warnings and advice."""
    kind = estimate.problem.kind
    left = [
        ("Fitted", kind),
        ("Objective", estimate.objective),
        ("Form", "entropy (no action prior)" if estimate.form == "entropy" else "KL (with an action prior)"),
        ("Demonstrations", f"{estimate.num_demonstrations:,.10g}"),
        ("Choices", f"{estimate.num_choices:,.10g}"),
        ("Covariance", estimate.covariance_kind),
    ]
    right = [
        ("Status", estimate.status.label),
        ("Log-likelihood" if estimate.objective != "moments" else "Value (nats)", _text(estimate.log_likelihood)),
        ("With all 0", _text(estimate.null_log_likelihood)),
        ("AIC", _text(estimate.aic)),
        ("BIC", _text(estimate.bic)),
        ("Steps, evaluations", f"{estimate.steps}, {estimate.evaluations}"),
    ]
    lines = ["Estimate of reward coefficients".center(WIDTH).rstrip(), "=" * WIDTH]
    for (a, b), (c, d) in zip(left, right, strict=True):
        lines.append(f"{a + ':':<17}{b:<28}{c + ':':<20}{d:>21}")
    lines.append("=" * WIDTH)
    frame = estimate.to_frame()
    long = max([14, *(len(str(name)) for name in frame.index)])
    heads = ("coefficient", "std. error", "z", "P>|z|", "2.5%", "97.5%")
    widths = (13, 12, 9, 8, 13, 13)
    lines.append(" " * long + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    lines.append("-" * max(WIDTH, long + sum(widths)))
    for name, row in frame.iterrows():
        cells = [f"{row['coefficient']:13.5g}", f"{row['standard_error']:12.4g}", f"{row['z']:9.2f}"]
        cells += [f"{row['p']:8.3f}", f"{row['lower']:13.5g}", f"{row['upper']:13.5g}"]
        cells = [f"{'-':>{width}}" if "nan" in cell else cell for cell, width in zip(cells, widths, strict=True)]
        fixed = "  fixed" if name not in estimate.free else ""
        lines.append(f"{name!s:<{long}}" + "".join(cells) + fixed)
    lines.append("=" * WIDTH)
    if estimate.penalised:
        lines.append("A penalty was part of what was maximised; the log-likelihood above is without it.")
    lines.extend(f"Warning: {sentence}" for sentence in estimate.warnings)
    if not estimate.status.ok:
        lines.append(f"Status: {estimate.status}")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.4f}"

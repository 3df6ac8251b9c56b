"""`cai fit`: coefficients of route choice from four CSV files."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cai.arguments import folder_for, listed
from cai.models.common.files import write_atomically
from cai.starting import only_own_output

__all__ = ["fit_command"]


def fit_command(
    links: Annotated[Path, typer.Option(metavar="FILE", help="CSV: link, attributes, optional x0 y0 x1 y1.")],
    turns: Annotated[Path, typer.Option(metavar="FILE", help="CSV: from, to, attributes.")],
    exits: Annotated[Path, typer.Option(metavar="FILE", help="CSV: link, destination, attributes.")],
    trips: Annotated[
        Path,
        typer.Option(metavar="FILE", help="CSV: trip, position, link, optional destination, person, weight."),
    ],
    features: Annotated[list[str], typer.Option(help="Attributes that are paid, with commas between them.")],
    objective: Annotated[str, typer.Option(help="likelihood, moments or path.")] = "likelihood",
    ends: Annotated[str, typer.Option(help="exit or absorb: whether trips may pass their destination.")] = "exit",
    covariance: Annotated[str | None, typer.Option(help="hessian, sandwich or cluster (by person).")] = None,
    drop: Annotated[
        str | None, typer.Option(help="report: leave out trips that do not fit the network, and say which.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the estimate goes; coefficients.json unless --json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Fit coefficients of route choice to trips, with standard errors."""
    from cai.inverse.fit import fit  # these load scipy
    from cai.models.demonstrations.route_network import RouteNetwork

    path = None if as_json and out is None else (out or Path("coefficients.json"))
    if path is not None and path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; --out takes a file")
    if path is not None:
        folder_for(path.parent, "--out")
    with only_own_output() if as_json else contextlib.nullcontext():
        network = RouteNetwork.read_csv(links, turns, exits, ends=ends)
        estimate = fit(
            network,
            trips,
            features=listed(features),
            objective=cast(Any, objective),
            covariance=cast(Any, covariance),
            drop=cast(Any, drop),
            throw=False,
        )
    if as_json:
        print(estimate.to_json(), flush=True)
    else:
        print(estimate.summary())
        if estimate.dropped is not None and len(estimate.dropped):
            print(f"Left out:\n{estimate.dropped.to_string(index=False)}")
    if path is not None:
        write_atomically(path, (estimate.to_json() + "\n").encode())
        if not as_json:
            print(f"saved {path}")
    if not estimate.status.ok:
        print(f"error: {estimate.status}", file=sys.stderr)
        raise typer.Exit(1)

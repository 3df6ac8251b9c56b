"""`cai draw`: one picture of a model or of an answer, saved as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cai.arguments import (
    Discount,
    Horizon,
    Name,
    Options,
    Seed,
    Slip,
    Temperature,
    build_problem,
    completes,
    folder_for,
)
from cai.inference.registry import infer
from cai.models.common.files import write_picture
from cai.models.common.names import did_you_mean
from cai.models.continuous.world import World
from cai.models.programs.factor_graph import draw_factor_graph

__all__ = ["draw_command", "drawing_without_screen"]

PICTURES = ("model", "factor-graph", "values", "luck", "messages", "bands", "gains", "plan")


def drawing_without_screen() -> Any:
    """The module of pictures, once matplotlib was told to open no window."""
    import matplotlib

    matplotlib.use("Agg")
    from cai.pictures import plots

    return plots


def draw_command(
    model: Name,
    what: Annotated[
        str, typer.Option(help=f"One of {', '.join(PICTURES)}.", autocompletion=completes(lambda: PICTURES))
    ] = "model",
    backend: Annotated[
        str | None,
        typer.Option(help="Whose answer to draw: exact unless given (of gains variational, of a plan ilqr)."),
    ] = None,
    horizon: Horizon = None,
    temperature: Temperature = None,
    discount: Discount = None,
    slip: Slip = None,
    option: Options = None,
    room: Annotated[
        str | None, typer.Option(help="Of a map with rooms, the one to draw, such as 'from R to G' of Taxi-v4.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to save; MODEL-PICTURE.png by default.")
    ] = None,
) -> None:
    """Draw a model, its factor graph, or a backend's answer about it."""
    if what not in PICTURES:
        raise ValueError(
            f"no picture is called {what!r}{did_you_mean(what, PICTURES)}; known are {', '.join(PICTURES)}"
        )
    problem = build_problem(model, horizon, temperature, discount, slip, option)
    path = out or Path(f"{problem.name}-{what}.png")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; --out takes a file here")
    path = path if path.suffix else path.with_suffix(".png")
    folder_for(path.parent, "the picture")
    plots = drawing_without_screen()
    backend = backend or {"gains": "variational", "plan": "ilqr"}.get(what, "exact")
    if what == "model":
        from cai.pictures.model_pictures import plot_model

        figure = plot_model(problem, room=room)
    elif what == "factor-graph":
        figure = draw_factor_graph(problem)
    elif isinstance(problem, World):
        from cai.pictures.world_answers import draw_world_answer

        figure = draw_world_answer(problem, what, backend, seed=seed)
    elif what in ("bands", "gains", "plan"):
        raise ValueError(
            f"{what!r} is a picture of continuous models; of {problem.name!r} draw values, luck or messages"
        )
    else:
        answer = infer(problem, backend, seed=seed)
        if what == "messages":
            figure = plots.plot_messages(answer)
        else:
            figure = {"values": plots.plot_values, "luck": plots.plot_luck}[what](answer, room=room)
    write_picture(path, figure)
    print(f"saved {path}", flush=True)

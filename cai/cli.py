"""The command line: compare backends, learn, list names, draw, fit rewards, explore, open the documentation."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.exceptions import TyperException

from cai.arguments import (
    Backends,
    Discount,
    Horizon,
    Name,
    Options,
    Rewards,
    Seed,
    Slip,
    Temperature,
    build_problem,
    folder_for,
    listed,
    with_rewards,
)
from cai.docs_command import docs_command
from cai.draw_command import draw_command, drawing_without_screen
from cai.fit_command import fit_command
from cai.inference.core.status import InferenceError
from cai.inference.registry import available_backends
from cai.models.common.files import StorageError
from cai.models.continuous.world import World
from cai.models.rewards.registry import available_rewards
from cai.models.zoo.registry import available_models
from cai.starting import INTERRUPTED, interrupts_raised, only_own_output
from cai.studies.comparison import DEFAULT_BACKENDS, Comparison, Row, chance_columns, compare
from cai.tasks.processes import worker_map
from cai.training import resume_command, train_command, watch_command

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Tells a Ctrl-C by `Abort`: typer itself makes an exit code of it, which a command may give for another reason."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(cls=_Commands, rich_markup_mode=None, help="Control as probabilistic inference.")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cai {version('control-as-inference')}")
        raise typer.Exit


@app.callback()
def options(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Control as probabilistic inference."""


@app.command("compare")
def compare_command(
    model: Name,
    backend: Backends = None,
    reward: Rewards = None,
    horizon: Horizon = None,
    temperature: Temperature = None,
    discount: Discount = None,
    slip: Slip = None,
    option: Options = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Save pictures and comparison.json here.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer side by side.")] = 1,
    study: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="Keep rows here as they end; the same command goes on there."),
    ] = None,
) -> None:
    """Ask several backends about a model, and try their policies.

    Each policy is tried in the true world, which is not conditioned on success.
    """
    with only_own_output() if as_json else contextlib.nullcontext():
        problem = with_rewards(build_problem(model, horizon, temperature, discount, slip, option), reward)
        folder = _folder(out)
        with worker_map(workers) as tasks:
            result = compare(problem, listed(backend) or DEFAULT_BACKENDS, seed=seed, map=tasks, folder=study)
    if as_json:
        print(result.to_json(), flush=True)
    else:
        _print_comparison(_console(), result)
    if folder is not None:  # last, so that a full disk loses no answer
        with only_own_output() if as_json else contextlib.nullcontext():
            drawing_without_screen()
            from cai.saving import save_comparison  # loads pyplot

            for path in save_comparison(result, folder):
                if not as_json:
                    _console().print(f"saved {path}", highlight=False, soft_wrap=True)
    if not any(row.status.ok for row in result.rows):
        print("error: no backend has answered; the rows say why", file=sys.stderr)
        raise typer.Exit(1)


@app.command("models")
def models_command() -> None:
    """List the models known by name."""
    table = Table(title="Models", title_justify="left")
    for column in ("model", "S", "A", "T", "what it is"):
        table.add_column(column, justify="right" if column in "SAT" else "left")
    for entry in available_models().values():
        sizes, summary = ["-"] * 3, entry.summary
        try:
            problem = entry.build()
            sizes = [*_sizes(problem), str(problem.horizon)]
        except Exception as error:  # a plug-in's own fault must not hide the others
            summary = f"cannot be built: {error!r}"
        table.add_row(entry.name, *sizes, summary)
    _console().print(table)


def _sizes(problem: Any) -> list[str]:
    """How many states and actions a model has, or the spaces that they lie in."""
    if isinstance(problem, World):
        return [f"R^{problem.state_dim}", f"R^{problem.action_dim}"]
    return [str(problem.mdp.num_states), str(problem.mdp.num_actions)]


@app.command("rewards")
def rewards_command() -> None:
    """List the reward factors known by name, for --reward."""
    table = Table(title="Reward factors", title_justify="left")
    for column in ("reward", "options", "what it is"):
        table.add_column(column)
    for entry in available_rewards().values():
        table.add_row(entry.name, ", ".join(entry.options), entry.summary)
    _console().print(table)


@app.command("backends")
def backends_command() -> None:
    """List the inference backends, with their targets and costs."""
    table = Table(title="Backends", title_justify="left")
    for column in ("backend", "target", "accepts", "cost"):
        table.add_column(column)
    for name, cls in available_backends().items():
        table.add_row(name, str(cls.target), cls.accepts, cls.cost)
    _console().print(table)


app.command("draw")(draw_command)
app.command("fit")(fit_command)
app.command("docs")(docs_command)


@app.command("explore")
def explore_command(
    model: Name,
    port: Annotated[int, typer.Option(help="Where to serve the page; 0 takes a free port.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Serve a page with sliders for a model, and live maps.

    The maps show what backends of your choice answer; picture and numbers can be saved.
    """
    try:
        from cai.explorer.page import serve
    except ImportError as error:
        raise ValueError(str(error)) from None
    serve(model, port=port, browser=browser, announce=lambda line: print(line, flush=True))


for _name, _command in (("train", train_command), ("resume", resume_command), ("watch", watch_command)):
    app.command(_name)(_command)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
    """A line on standard error, without the line of the program; what libraries deprecate is no affair of users."""
    if not issubclass(category, DeprecationWarning):
        print(str(message), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; what goes wrong ends in one sentence on standard error.

    Exit codes: 1 where no backend answers or a file cannot be written, 2 for bad arguments, 130 for Ctrl-C.
    """
    if sys.stdout is None:  # closed by whoever started the program
        sys.stdout = io.StringIO()
    warnings.showwarning = _show_warning
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    torch.set_num_threads(1)  # the tables are small, and threads that wait for each other cost more than they bring
    code: Any = 0
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_words(words)
        with interrupts_raised():
            code = app(args=words or ["--help"], prog_name="cai", standalone_mode=False)
    except TyperException as error:
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        surplus = "unexpected extra argument" in said and words[:1] == ["compare"]
        _fail(said + ("; backends are named after --backend, with commas between them" if surplus else ""))
    except StorageError as error:
        _fail(str(error), code=1)
    except OSError as error:
        if error.errno in FULL:
            _fail(f"{error.filename or 'standard output'} cannot be written: {error.strerror}", code=1)
        _fail(str(error))
    except ValueError as error:
        _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", code=INTERRUPTED)
    except typer.Exit as error:
        code = error.exit_code
    except InferenceError as error:
        _fail(str(error), code=1)
    except MemoryError as error:
        _fail(f"not enough memory: {error}", code=1)
    except SystemExit as error:
        if "_CAI_COMPLETE" in os.environ or {"--show-completion", "--install-completion"} & set(words):
            raise  # that is how completion ends
        if isinstance(error.__context__, OSError) and error.__context__.errno == errno.EPIPE:
            sys.exit(1)  # whoever reads has seen enough, as in `cai compare bridge | head`
        _fail(f"a plug-in ended the program (exit code {error.code!r})", code=1)
    sys.exit(code if isinstance(code, int) else 0)


def _check_words(words: list[str]) -> None:
    """Raises ValueError for an empty argument, which as a path would stand for the working directory."""
    for before, word in zip(["cai", *words], words, strict=False):
        option = word[:-1] if word.startswith("--") and word.endswith("=") else before if not word else ""
        if option:
            raise ValueError(f"the argument after {option} is empty; is it a variable of the shell that has no value?")


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _console() -> Console:
    """A terminal's own width; a file or a pipe gets lines long enough for every column."""
    return Console() if sys.stdout.isatty() else Console(width=130)


def _folder(out: Path | None) -> Path | None:
    return None if out is None else folder_for(out, "--out")


def _print_comparison(console: Console, result: Comparison) -> None:
    model = result.model
    states, actions = _sizes(model)
    sizes = f"states {states}, actions {actions}" if isinstance(model, World) else f"S = {states}, A = {actions}"
    console.print(
        f"{model.name}: {sizes}, T = {model.horizon}, "
        f"temperature {model.temperature:g}, "
        + ("per step of the long run" if model.is_average else f"discount {model.discount:g}"),
        highlight=False,
    )
    narrow = console.width < 105
    believes = _table("What each backend believes", [] if narrow else ["target"])
    for column in ("log p(O)", "bound", "believed return", "luck", "entropy", *([] if narrow else ["seconds"])):
        believes.add_column(column, justify="right")
    for row in result.rows:
        numbers = (row.log_evidence, row.elbo, row.believed_return, row.luck, row.policy_entropy)
        words = [row.backend, *([] if narrow else [row.target]), row.status.label]
        believes.add_row(*words, *(_number(value) for value in numbers), *([] if narrow else [f"{row.seconds:.2f}"]))
    console.print(believes)
    chances = chance_columns(model)
    world = _table("What its policy does in the true world", [], status=False)
    gap, spread = ("gap", []) if narrow else ("believed - real", ["std"])
    for column in ("real return", gap, *spread, "worst 5%", *chances):
        world.add_column(column, justify="right")
    for row in result.rows:
        world.add_row(row.backend, *_world(row, chances, narrow))
    console.print(world)
    if any(row.effective_sample_size is not None for row in result.rows):
        drawn = _table("What its particles are worth", [], status=False)
        for column in ("effective sample size", "error of log p(O)"):
            drawn.add_column(column, justify="right")
        for row in result.rows:
            if row.effective_sample_size is not None:
                drawn.add_row(row.backend, f"{row.effective_sample_size:.1f}", _number(row.log_evidence_error))
        console.print(drawn)
    if any(row.gain is not None for row in result.rows):
        gains = _table("What a step is worth in the long run", [], status=False)
        gains.add_column("gain", justify="right")
        for row in result.rows:
            gains.add_row(row.backend, _number(row.gain))
        console.print(gains)
    for row in result.rows:
        if not row.status.ok or row.detail:
            console.print(f"{row.backend}: {row.detail or row.status}", highlight=False, soft_wrap=True)


def _table(title: str, words: list[str], status: bool = True) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("backend", no_wrap=True, min_width=11)
    for column in (*words, *(["status"] if status else [])):
        table.add_column(column)
    return table


def _world(row: Row, chances: dict[str, tuple[str, str]], narrow: bool) -> list[str]:
    outcome = row.outcome
    if outcome is None:
        return ["-"] * (4 - narrow + len(chances))
    numbers = (row.real_return, row.optimism_gap, *(() if narrow else (outcome.std,)), outcome.cvar)
    shares = [outcome.chance(*place) for place in chances.values()]
    return [*(_number(value, 2 if narrow else 4) for value in numbers), *(f"{share:.1%}" for share in shares)]


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    return f"{value if abs(value) >= 0.5 * 10**-digits else 0.0:.{digits}f}"


if __name__ == "__main__":
    main()

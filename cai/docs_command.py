"""`cai docs`: opens the documentation, where it was built; it builds nothing itself."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

import cai

__all__ = ["docs_command", "find_site"]


def docs_command(
    folder: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the site lies, if it is elsewhere.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
) -> None:
    """Open the documentation that 'make docs' has built."""
    page = find_site(folder)
    print(page, flush=True)
    if browser:
        webbrowser.open(page.as_uri())


def find_site(folder: Path | None = None) -> Path:
    """The first page of the site.

    Args:
        folder: where it lies; unless given, out/docs of the clone that `cai` is installed from, or of the current
            folder.

    Raises:
        ValueError: if it is not there; the message says how to build it.
    """
    clone = Path(cai.__file__).resolve().parents[1]
    places = [folder] if folder is not None else [clone / "out" / "docs", Path("out") / "docs"]
    for place in places:
        if (place / "index.html").is_file():
            return (place / "index.html").resolve()
    looked = " and ".join(str(place) for place in places)
    raise ValueError(
        f"the documentation was not found in {looked}; 'make docs' in a clone of the repository builds it there, and "
        "cai docs --folder DIR opens it from elsewhere"
    )

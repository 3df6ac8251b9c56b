"""Lays the sources of the site out in one folder: written pages, notebooks, and what is made from the library."""

from __future__ import annotations

import shutil
from pathlib import Path

from docs.api_pages import api_pages
from docs.backend_pages import backend_pages
from docs.zoo_page import zoo_page

__all__ = ["ROOT", "lay_out"]

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ROOT / "docs" / "pages"
INCLUDED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tutorials/labs/README.md")


def lay_out(folder: Path) -> None:
    """Fills a folder anew; pictures that are there already are kept by whoever draws them."""
    for path in sorted(WRITTEN.rglob("*.md")):
        if path.parent.name != "backends":
            _copy(path, folder / path.relative_to(WRITTEN))
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        _copy(path, folder / "tutorials" / path.name)
    for name in INCLUDED:
        _copy(ROOT / name, folder / "_included" / name)
    _copy(ROOT / "docs" / "bridge.png", folder / "pictures" / "bridge.png")
    _copy(ROOT / "tutorials" / "plugin_example" / "README.md", folder / "tutorials" / "plugin_example" / "README.md")
    for name, text in (api_pages() | backend_pages() | zoo_page()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)

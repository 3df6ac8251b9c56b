"""Checks built pages: every link within the site leads to a place, and nothing is loaded from another host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["problems"]

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
KINDS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}  # of <link>


@dataclass
class Page:
    """What a page holds."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collects ids, links, and what the page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if "id" in said:
            self.page.ids.add(said["id"])
        if tag == "a" and "name" in said:
            self.page.ids.add(said["name"])
        if tag == "a" and "href" in said:
            self.page.links.append(said["href"])
        if tag in LOADED and LOADED[tag] in said:
            self.page.loaded.append(said[LOADED[tag]])
        if tag == "link" and KINDS & set(said.get("rel", "").split()):
            self.page.loaded.append(said.get("href", ""))


def read_page(text: str) -> Page:
    """The ids, links and loaded files of one page."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader.page


def problems(site: Path, required: Mapping[str, Iterable[str]] | None = None) -> list[str]:
    """What is wrong with the pages below a folder, as sentences; empty if nothing is.

    Args:
        site: the folder.
        required: {page: the ids that it must have}.
    """
    pages = {path: read_page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site} holds no page"]
    for name, ids in (required or {}).items():
        held = pages[site / name].ids if site / name in pages else set()
        found += [f"{name} has no place called {wanted}" for wanted in ids if wanted not in held]
    for path, page in pages.items():
        here = path.relative_to(site).as_posix()
        for address in page.loaded:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{here} loads {address} from another host")
            elif not _target(path, site, parts.path).is_file():
                found.append(f"{here} loads {address}, which is not there")
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = _target(path, site, parts.path)
            place = unquote(parts.fragment)
            if not target.is_file():
                found.append(f"{here} links to {address}, which is not there")
            elif place and target.suffix == ".html" and place not in pages[target].ids:
                found.append(f"{here} links to {address}: the page has no such place")
    return found


def _target(page: Path, site: Path, path: str) -> Path:
    if not path:
        return page
    base = site if path.startswith("/") else page.parent
    target = (base / unquote(path).lstrip("/")).resolve()
    return target / "index.html" if target.is_dir() else target

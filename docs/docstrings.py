"""Docstrings as Sphinx reads them: indented blocks become equations or code, and prose is no markup by accident."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from docs.equations import is_code, to_latex
from docs.names import public_names

__all__ = ["rewrite", "setup"]

STARS = re.compile(
    r"(?m)^(\s*(?:\* |\*{1,2}\w+(?:, \*{1,2}\w+)*:))|\*"
)  # a list, arguments (napoleon escapes those), others
BLOCK = re.compile(r"(?m)(?:(?<=\n\n)|\A)((?:[ ]{2,}.*\n|\n(?=[ ]{2,}))+)")
QUOTED = re.compile(r"``[^`]+``|`[^`]+`")


def rewrite(text: str, names: Mapping[str, str]) -> str:
    """A docstring as reStructuredText, its sections left as they are.

    Args:
        text: without the indentation that all its lines share.
        names: what a word in backticks refers to: word -> the name under which the reference has it.
    """
    head, *rest = re.split(r"(?m)^(?=(?:Args|Returns|Raises|Attributes|Yields):$)", text.rstrip("\n") + "\n")
    pieces = BLOCK.split(head)
    made = "".join(_displayed(piece) if place % 2 else _prose(piece, names) for place, piece in enumerate(pieces))
    return made + "".join(_prose(section, names) for section in rest)


def _displayed(block: str) -> str:
    margin = min(len(line) - len(line.lstrip()) for line in block.splitlines() if line.strip())
    block = "\n".join(line[margin:] for line in block.rstrip("\n").splitlines())
    kind, lines = (".. code-block:: python", block) if is_code(block) else (".. math::", to_latex(block))
    indented = "\n".join(f"   {line}".rstrip() for line in lines.splitlines())
    option = "" if is_code(block) else "   :no-wrap:\n" if lines.startswith(r"\begin{align") else ""
    return f"\n{kind}\n{option}\n{indented}\n\n"


def _prose(text: str, names: Mapping[str, str]) -> str:
    quoted = QUOTED.findall(text)
    plain = [_escape(piece) for piece in QUOTED.split(text)]
    made = plain[0]
    for code, piece in zip(quoted, plain[1:], strict=True):
        made += _reference(code.strip("`"), names) + (r"\ " if piece[:1].isalnum() else "") + piece
    return made


def _escape(text: str) -> str:
    text = text.replace("\\", "\\\\")
    text = STARS.sub(lambda found: found[1] or r"\*", text)
    text = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", text)
    text = re.sub(r"(?<![\w.])([A-Za-z])\.(?=\s|$)", r"\1\\.", text)  # "N." alone would begin a list
    return text.replace("|", r"\|")


def _reference(code: str, names: Mapping[str, str]) -> str:
    code = re.sub(r"\s+", " ", code)
    full = names.get(code) or names.get(code.removesuffix("()"))
    if full is not None:
        return f":py:obj:`{code} <{full}>`"
    return f"``{code}``"


def setup(app: Any) -> dict[str, Any]:
    """Connects to autodoc, ahead of napoleon."""
    names = public_names()

    def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        lines[:] = rewrite("\n".join(lines), names).splitlines()
        if what in ("attribute", "data", "property"):
            lines[:0] = ["..", ""]  # a comment, or napoleon takes what stands before a colon for a type

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}

"""The pages of the reference: one a module, everything in it from docstrings."""

from __future__ import annotations

import inspect
from typing import Any

from docs.names import MODULES, homes, members

__all__ = ["api_pages"]

CONSTANTS = {
    "cai.__version__": "The version of the package.",
    "cai.inference.extend.EXACT": "The recursion of the exact posterior: soft over outcomes as over actions.",
    "cai.inference.extend.FIXED": "The recursion under the true dynamics: expected over outcomes, soft over actions.",
    "cai.pictures.LUCK_MAP": "The colour map of luck.",
    "cai.pictures.MASS_MAP": "The colour map of probabilities and visits.",
    "cai.pictures.REAL_COLOR": "The colour of what happens in the true world.",
    "cai.pictures.TARGET_COLORS": "The colour of each target, by its name.",
    "cai.pictures.VALUE_MAP": "The colour map of values.",
}
"""What has no docstring of its own."""


def api_pages() -> dict[str, str]:
    """{path: reStructuredText} of the reference."""
    known = homes()
    pages = {f"api/{module}.rst": _page(module, known) for module in MODULES}
    listed = "\n".join(f"   {module}" for module in MODULES)
    intro = "Every public name, by the module that it is imported from; what several modules offer is described once."
    pages["api/index.rst"] = f"Reference\n=========\n\n{intro}\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n"
    return pages


def _page(module: str, known: dict[str, str]) -> str:
    parts = [f"{module}\n{'=' * len(module)}\n", f".. automodule:: {module}\n   :no-members:\n"]
    names = members(module)
    parts.append(" · ".join(f":py:obj:`{name} <{known[f'{module}.{name}']}>`" for name in names) + "\n")
    elsewhere = []
    for name, thing in names.items():
        full = f"{module}.{name}"
        if known[full] == full:
            parts.append(_entry(full, thing))
        else:
            elsewhere.append(
                f'.. raw:: html\n\n   <span id="{full}"></span>\n\n``{full}``\n   :py:obj:`{known[full]}`\n'
            )
    if elsewhere:
        parts += ["Also here\n---------\n", *elsewhere]
    return "\n".join(parts)


def _entry(full: str, thing: Any) -> str:
    if full in CONSTANTS:
        return f".. py:currentmodule:: None\n\n.. py:data:: {full}\n\n   {CONSTANTS[full]}\n"
    kind = "function"
    if inspect.isclass(thing):
        kind = "exception" if issubclass(thing, BaseException) else "class"
    return f".. auto{kind}:: {full}\n"

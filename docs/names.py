"""The public names: what the reference documents, and where."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["MODULES", "homes", "public_names"]

MODULES = (
    "cai",
    "cai.models",
    "cai.inference",
    "cai.inference.learning",
    "cai.inference.learning.exact",
    "cai.inference.extend",
    "cai.inverse",
    "cai.policies",
    "cai.evaluation",
    "cai.studies",
    "cai.pictures",
    "cai.explorer",
)


def members(module: str) -> dict[str, Any]:
    """The public objects of a module, by name, in alphabetical order."""
    loaded = import_module(module)
    return {name: getattr(loaded, name) for name in sorted(loaded.__all__, key=str.lower)}


def homes() -> dict[str, str]:
    """Every public name in full -> the name under which its object is documented, which is the first it has."""
    first: dict[int, str] = {}
    found = {}
    for module in MODULES:
        for name, thing in members(module).items():
            full = f"{module}.{name}"
            plain = isinstance(thing, (str, int, float, dict))  # equal constants may be one object
            found[full] = full if plain else first.setdefault(id(thing), full)
    return found


def public_names() -> dict[str, str]:
    """What a docstring may call a public object -> where that is documented."""
    names: dict[str, str] = {}
    for full, home in homes().items():
        names.setdefault(full.rpartition(".")[2], home)
        names[full] = home
    return names

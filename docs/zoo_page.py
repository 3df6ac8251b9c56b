"""The gallery of the zoo: picture, size and source of each model, from the registry and the docstrings."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

import cai
from cai.models.continuous.world import World
from cai.models.zoo.registry import ModelEntry, zoo_entries
from docs.docstrings import rewrite
from docs.names import public_names

__all__ = ["zoo_page"]

INTRO = """
What can be asked about at once, by name: ``cai.models.build_model("bridge", slip=0.3)``, ``cai compare bridge``, or
``cai draw bridge``. Sizes and pictures are those of the defaults. S is the number of states, A of actions, T the
horizon.
"""


def zoo_page() -> dict[str, str]:
    """{path: reStructuredText} of the gallery."""
    names = public_names()
    title = "The zoo"
    rows = "".join(
        f"   * - `{entry.name}`_\n     - {_size(entry)}\n     - {entry.summary}\n" for entry in zoo_entries()
    )
    table = f".. list-table::\n   :header-rows: 1\n\n   * - model\n     - size\n     - what it is\n{rows}"
    parts = [f"{title}\n{'=' * len(title)}\n", INTRO, table, *(_entry(entry, names) for entry in zoo_entries())]
    return {"zoo.rst": "\n".join(parts)}


def _entry(entry: ModelEntry, names: dict[str, str]) -> str:
    doc = inspect.getdoc(entry.build) or ""
    prose = re.split(r"(?m)^(?:Args|Returns|Raises):$", doc)[0]
    called = f"cai.models.{entry.name.replace('-', '_')}"
    reference = f" :py:func:`{called}` has its options." if called in names else ""
    return "\n".join(
        [
            f"{entry.name}\n{'-' * len(entry.name)}\n",
            f"*{entry.summary[0].upper()}{entry.summary[1:]}.* {_size(entry)}.{reference}\n",
            f".. image:: pictures/zoo-{entry.name}.png\n   :alt: {entry.name}: {entry.summary}\n   :width: 620px\n",
            rewrite(prose, names),
        ]
    )


@cache
def _size(entry: ModelEntry) -> str:
    model: Any = cai.models.build_model(entry.name)
    if isinstance(model, World):
        return f"States in R^{model.state_dim}, actions in R^{model.action_dim}, T = {model.horizon}"
    return f"S = {model.mdp.num_states}, A = {model.mdp.num_actions}, T = {model.horizon}"

"""The two models of the page to play with, as JavaScript: their layout and rewards, and nothing that is computed."""

from __future__ import annotations

import inspect
import json
from typing import Any

from cai.models import bridge, lottery
from cai.models.zoo.grid_process import read_map
from cai.models.zoo.gridworld import BRIDGE_MAP

__all__ = ["play_tables"]


def play_tables() -> str:
    """A script that sets `TABLES`."""
    tables = {"bridge": _defaults(bridge) | {"rows": read_map(BRIDGE_MAP, "#.SG~=")}, "lottery": _defaults(lottery)}
    return f"globalThis.TABLES = {json.dumps(tables)};\n"


def _defaults(build: Any) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, (int, float))}

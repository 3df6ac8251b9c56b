"""Facts as a table of HTML, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

__all__ = ["fact_table", "process_facts"]


def fact_table(title: str, facts: Mapping[str, Any]) -> str:
    """A table of two columns, names and values, under a title."""
    rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
    return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def process_facts(mdp: Any) -> dict[str, Any]:
    """What is told of an `MDP`: sizes, names, regions, and where it lives."""
    facts = {
        "states": f"{mdp.num_states} ({int(mdp.terminal.sum())} terminal)",
        "actions": mdp.num_actions if mdp.action_names is None else ", ".join(mdp.action_names[:8]),
        "outcomes": "dense" if mdp.is_dense else f"at most {mdp.num_outcomes} for each action",
        "regions": ", ".join(mdp.regions) or "none",
    }
    return facts | ({} if mdp.host is mdp else {"lives on": f"{mdp.device}, {mdp.dtype}"})

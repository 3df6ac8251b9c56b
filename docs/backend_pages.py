"""A page for each backend: what is written by hand, and beside it what the class says of itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from cai.inference.registry import available_backends
from docs.names import public_names
from docs.pictures import BACKEND_PICTURES

__all__ = ["backend_pages", "described_options"]

WRITTEN = Path(__file__).parent / "pages" / "backends"


def backend_pages() -> dict[str, str]:
    """{path: MyST} of the page of each built-in backend, and of their list."""
    backends = {name: cls for name, cls in available_backends().items() if name in BACKEND_PICTURES}
    pages = {f"backends/{name}.md": _page(name, cls) for name, cls in backends.items()}
    rows = [f"| [`{name}`]({name}.md) | {cls.target} | {_cell(cls.accepts)} |" for name, cls in backends.items()]
    names = "\n".join(backends)
    table = "\n".join(["| backend | target | accepts |", "| --- | --- | --- |", *rows])
    intro = (
        "Every backend answers a model by a distribution over trajectories. Its *target* says of which kind: `exact` "
        "is the posterior given optimality, `fixed-dynamics` the best policy under the true dynamics, and `other` is "
        "said on its page. [Which backend?](../which_backend.md) helps to choose."
    )
    pages["backends/index.md"] = f"# Backends\n\n{intro}\n\n{table}\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    return pages


def _page(name: str, cls: Any) -> str:
    written = (WRITTEN / f"{name}.md").read_text(encoding="utf-8").strip()
    caption = BACKEND_PICTURES[name][1]
    home = public_names()[cls.__name__]
    options = described_options(cls)
    call = f'cai.infer(model, "{name}")'
    listed = "\n\n".join(_option(*option) for option in options) or "It has none."
    return f"""# `{name}`

{written}

## A picture

```{{figure}} ../pictures/backends-{name}.png
:alt: {caption}
:width: 100%

{caption}
```

## How to ask

```python
posterior = {call}
```

| | |
| --- | --- |
| target | {cls.target} |
| accepts | {_cell(cls.accepts)} |
| cost | {_cell(cls.cost)} |
| class | {{py:class}}`{home}` |

### Options

{listed}
"""


def _option(name: str, default: str, text: str) -> str:
    return f"`{name}` (default `{default}`)\n: {_prose(text)}"


def described_options(cls: Any) -> list[tuple[str, str, str]]:
    """(name, default, description) of every option of a backend, from its fields and docstrings."""
    said: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        said |= _arguments(inspect.cleandoc(part.__doc__ or ""))
    return [(field.name, _default(field), said.get(field.name, "")) for field in dataclasses.fields(cls)]


def _arguments(doc: str) -> dict[str, str]:
    """{argument: description} of the section Args of a docstring."""
    found = re.search(r"(?ms)^Args:\n(.*?)(?=^\S|\Z)", doc)
    entries = re.findall(r"(?ms)^    (\w+): (.*?)(?=^    \w|\Z)", found[1] if found else "")
    return {name: re.sub(r"\s+", " ", text).strip() for name, text in entries}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    assert field.default_factory is not dataclasses.MISSING
    return repr(field.default_factory())


def _prose(text: str) -> str:
    """Text of a docstring as MyST: nothing in it is markup but code in backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*<>$\[\]|])", r"\\\1", p) for p in pieces)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")

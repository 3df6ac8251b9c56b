"""Files whose header or tables were changed by somebody who knows how to make the checksums right again."""

import json
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import save

from cai.models.common.storage import FILE


def rewrite(path, changed, change=lambda document: document, tables=None):
    """Writes the file at `path` to `changed`, its header and its tables changed.

    `change` makes another document of it, or text; `tables` holds functions of the tables to change, by name.
    """
    with safe_open(str(path / FILE if path.is_dir() else path), framework="pt") as file:
        document = json.loads(file.metadata()["cai"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, altered in (tables or {}).items():
        tensors[name] = altered(tensors[name]).clone(memory_format=torch.contiguous_format)
        document["sums"][name] = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    document = change(document)
    text = document if isinstance(document, str) else json.dumps(document)
    changed.write_bytes(save(tensors, metadata={"cai": text, "crc": str(zlib.crc32(text.encode()))}))
    return changed


def places(value, where=()):
    """The place of every value inside a nested one, the whole included."""
    yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*where, key))


def put(value, where, new):
    """The nested value with another one at a place; None stands for its removal."""
    if not where:
        return new
    inner = value
    for key in where[:-1]:
        inner = inner[key]
    if new is None:
        del inner[where[-1]]
    else:
        inner[where[-1]] = new
    return value

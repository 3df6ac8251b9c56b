"""Files whose header was changed by somebody who knows how to make the checksum right again."""

import json
import zlib

from safetensors import safe_open
from safetensors.torch import save

from cai.models.common.storage import FILE


def rewrite(path, changed, change):
    """Writes the file at `path` to `changed`, its header changed; `change` makes another document of it, or text."""
    with safe_open(str(path / FILE if path.is_dir() else path), framework="pt") as file:
        document = json.loads(file.metadata()["cai"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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

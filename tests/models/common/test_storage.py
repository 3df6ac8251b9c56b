"""Files of tables and words: what goes in comes out, damage is told by field, and a write is whole or not at all."""

import enum
import math
import os
import stat
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from damage import rewrite

from cai.models.common import storage
from cai.models.common.storage import FILE, StorageError, can_store, load, save, storable, stored_kind


@storable("test-colour")
class Colour(enum.Enum):
    RED = 1


@storable("test-pair")
class Pair(NamedTuple):
    left: Any
    right: Any


@storable("test-thing")
@dataclass(frozen=True, eq=False)
class Thing:
    table: Any
    words: Any = None


VALUES = {
    "none": None,
    "words": ["a", "", "ü\n"],
    "numbers": [True, 3, -1.5, 1e-300, 2**70, math.inf, -math.inf],
    "tuple": (1, (2, [3])),
    "dict": {"a": {"b": 1}, "$": 2, 3: (4,)},
    "enum": Colour.RED,
    "named": Pair(torch.eye(2), Colour.RED),
    "dtype": [torch.float32, torch.device("cpu")],
}


@pytest.mark.parametrize("name", VALUES)
def test_what_goes_in_comes_out(tmp_path, name):
    found = load(save(tmp_path / "file", VALUES[name]))
    assert type(found) is type(VALUES[name])
    assert repr(found) == repr(VALUES[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.bool, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_keep_bits_shape_and_dtype(tmp_path, dtype, shape):
    table = (torch.rand(shape) > 0.5).to(dtype)
    turned = table.T if len(shape) == 2 else table
    found = load(save(tmp_path / "file", [table, turned]))
    assert found[0].dtype == dtype
    assert torch.equal(found[0], table)
    assert torch.equal(found[1], turned)


def test_nan_inf_and_arrays(tmp_path):
    values = torch.tensor([math.nan, math.inf, -0.0])
    found = load(save(tmp_path / "file", {"t": values, "a": np.arange(3), "n": math.nan, "s": np.float32(1.5)}))
    assert torch.equal(found["t"].view(torch.int32), values.view(torch.int32))
    assert np.array_equal(found["a"], np.arange(3))
    assert math.isnan(found["n"])
    assert found["s"] == 1.5


def test_what_is_shared_is_stored_once_and_comes_back_shared(tmp_path):
    table = torch.rand(1000)
    found = load(save(tmp_path / "file", Pair([Thing(table)] * 50, table)))
    assert found.left[0] is found.left[49]
    assert found.left[0].table is found.right
    assert (tmp_path / "file").stat().st_size < 2 * 4 * 1000


def test_gradients_stay_behind(tmp_path):
    table = torch.ones(2, requires_grad=True) * 2
    assert not load(save(tmp_path / "file", table)).requires_grad


def test_a_folder_holds_one_file_with_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "answer", Thing(torch.eye(2), "words"), folder=True)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "answer").iterdir()
    assert file.name == FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stored_kind(tmp_path / "answer") == "test-thing"
    assert load(tmp_path / "answer").words == "words"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path / "file", "old")
    with pytest.raises(StorageError, match=r"test-thing\.words\.1 is a function.*cannot be saved"):
        save(tmp_path / "file", Thing(1, [2, lambda: 3]))
    assert not can_store(lambda: 3)

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "file", "new")
    assert load(tmp_path / "file") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nothing saved at .*nowhere"):
        load(tmp_path / "nowhere")
    assert load(save(tmp_path / "not" / "yet" / "file", 1)) == 1
    with pytest.raises(StorageError, match=r"file' is a file; '.*file/more' needs a folder"):
        save(tmp_path / "not" / "yet" / "file" / "more", 1)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StorageError, match="text' is damaged or no safetensors file"):
        load(tmp_path / "text")
    save(tmp_path / "thing", Thing(torch.eye(3)))
    with pytest.raises(StorageError, match="holds a test-thing; expected test-pair"):
        load(tmp_path / "thing", expected="test-pair")
    monkeypatch.delitem(storage._BY_NAME, "test-thing")
    with pytest.raises(StorageError, match=r"thing', field test-thing.*kind 'test-thing' is unknown"):
        load(tmp_path / "thing")


def test_every_flipped_bit_is_noticed(tmp_path):
    table = torch.arange(4, dtype=torch.float64)
    content = save(tmp_path / "file", Thing(table, {"a": 0.5})).read_bytes()
    changed_path = tmp_path / "changed"
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        changed_path.write_bytes(bytes(changed))
        try:
            found = load(changed_path)
        except StorageError:
            continue
        assert torch.equal(found.table, table)  # the bit was in padding
        assert found.words == {"a": 0.5}
    changed_path.write_bytes(content[:-3] + b"abc")
    with pytest.raises(StorageError, match=r"damaged at field test-thing\.table"):
        load(changed_path)
    changed_path.write_bytes(content[:-3])
    with pytest.raises(StorageError, match="damaged"):
        load(changed_path)


def test_a_newer_layout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "VERSION", 2)
    save(tmp_path / "file", 1)
    monkeypatch.setattr(storage, "VERSION", 1)
    with pytest.raises(StorageError, match=r"newer version.*layout 2"):
        load(tmp_path / "file")


def test_what_was_read_does_not_follow_the_file(tmp_path):
    path = save(tmp_path / "file", torch.ones(5000))
    found = load(path)
    path.write_bytes(b"shorter")  # what lay in the file would end the process here
    assert float(found.sum()) == 5000


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda document: document | {"kind": "test-pair"}, "calls it a test-pair, and it is a test-thing"),
        (lambda document: document | {"root": 3.0}, "calls it a test-thing, and it is a <class 'float'>"),
        (lambda document: document | {"root": [10**400]}, "too large a number"),
    ],
)
def test_a_header_that_says_something_else(tmp_path, change, text):
    path = save(tmp_path / "file", Thing(torch.eye(2)))
    with pytest.raises(StorageError, match=text):
        load(rewrite(path, tmp_path / "changed", change))


@pytest.mark.parametrize("path", ["", "nu\0l"])
def test_paths_that_are_none(path):
    with pytest.raises(StorageError, match="is no path of a file"):
        save(path, 1)

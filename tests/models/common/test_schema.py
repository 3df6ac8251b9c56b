"""What a file says is held against the types that its classes declare."""

import contextlib
import copy
import random

import damage
import pytest
import torch

import cai
from cai.inference.tabular.backward import Messages
from cai.inverse.search.objective import Data
from cai.models import bridge, lottery
from cai.models.common.schema import check_fields, declared_types, fits
from cai.models.common.storage import StorageError, load

FITTING = {
    "none": (None, "int | None"),
    "whole": (3, "float"),
    "table": (torch.ones(2), "Tensor | None"),
    "names": (("a", "b"), "tuple[str, ...] | None"),
    "pair": ((1, "a"), "tuple[int, str]"),
    "words": ({"a": "b"}, "dict[str, str]"),
    "nested": ({"a": [(1.0,)]}, "dict[str, list[tuple[float, ...]]]"),
    "anything": ([object()], "Any"),
    "word": ("exact", "Literal['exact', 'fixed']"),
}
NOT = {
    "bool for a number": (True, "int"),
    "bool for a float": (True, "float"),
    "word for a bool": ("yes", "bool"),
    "numbers for names": ((1, 2), "tuple[str, ...] | None"),
    "list for a tuple": (["a"], "tuple[str, ...]"),
    "long pair": ((1, "a", 2), "tuple[int, str]"),
    "numbers for words": ({"a": 1}, "dict[str, str]"),
    "deep": ({"a": [(1.0, "b")]}, "dict[str, list[tuple[float, ...]]]"),
    "word": ("other", "Literal['exact', 'fixed']"),
    "none": (None, "str"),
}


def hint(text):
    from typing import Any, Literal

    from torch import Tensor

    return eval(text, {"Any": Any, "Literal": Literal, "Tensor": Tensor})


@pytest.mark.parametrize("name", FITTING)
def test_what_fits(name):
    assert fits(FITTING[name][0], hint(FITTING[name][1]))


@pytest.mark.parametrize("name", NOT)
def test_what_does_not(name):
    assert not fits(NOT[name][0], hint(NOT[name][1]))


def test_the_types_of_a_class_are_those_that_it_declares():
    assert declared_types(cai.Policy)["stationary"] is bool
    assert declared_types(Messages)["policy"] is torch.Tensor  # which is computed where it is not given
    assert declared_types(Data)["features"] == dict[str, str]  # of a NamedTuple, too
    with pytest.raises(TypeError, match=r"source is 3 \(int\); expected str"):
        check_fields(cai.Policy, {"source": 3})


@pytest.fixture
def policy(tmp_path):
    made = cai.Policy([[0.5, 0.5]] * 2, state_names=("a", "b"), source="me", metadata={"k": "v"})
    return made.save(tmp_path / "policy")


def parts(document, **changes):
    document["objects"][0]["parts"] |= changes
    return document


WRONG = {
    "a word for a bool": ({"stationary": "yes"}, "stationary is 'yes'"),
    "a number for a bool": ({"stationary": 1}, "stationary is 1"),
    "names that are numbers": ({"state_names": {"$": "tuple", "is": [1, 2]}}, "state_names"),
    "names that are a word": ({"state_names": "ab"}, "state_names is 'ab'"),
    "names that are equal": ({"state_names": {"$": "tuple", "is": ["a", "a"]}}, "state_names.*'a'.*twice"),
    "a source that is a list": ({"source": ["me"]}, "source"),
    "metadata of numbers": ({"metadata": {"k": 1}}, "metadata"),
    "metadata that is a list": ({"metadata": ["k"]}, "metadata"),
    "an unknown part": ({"other": 1}, "other"),
    "an object that does not exist": ({"metadata": {"$": "object", "is": 7}}, "metadata"),
    "an object from the end": ({"metadata": {"$": "object", "is": -1}}, "metadata"),
    "a function of torch": ({"metadata": {"$": "dtype", "is": "load"}}, "metadata"),
    "an unknown tag": ({"metadata": {"$": "code", "is": "1"}}, "metadata"),
    "a tag that is a list": ({"metadata": {"$": ["tensor"], "is": "1"}}, "metadata"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_of_wrong_types_is_refused(policy, tmp_path, name):
    changes, pattern = WRONG[name]
    changed = damage.rewrite(policy, tmp_path / "changed", lambda document: parts(document, **changes))
    with pytest.raises(StorageError, match=rf"(?s)changed' is damaged at field policy.*{pattern}"):
        cai.Policy.load(changed)


HEADERS = {
    "no object": "[]",
    "a word": '"a"',
    "no JSON": "{",
    "nested without end": "[" * 100_000 + "]" * 100_000,
    "a key twice": '{"version": 1, "version": 1}',
    "not a number": '{"version": NaN}',
    "a version of words": '{"version": "1", "kind": "policy", "root": 1, "objects": [], "sums": {}}',
    "objects by name": '{"version": 1, "kind": "policy", "root": 1, "objects": {}, "sums": {}}',
    "sums of words": '{"version": 1, "kind": "policy", "root": 1, "objects": [], "sums": {"a": "b"}}',
    "no kind": '{"version": 1, "root": 1, "objects": [], "sums": {}}',
    "an object of three": '{"version": 1, "kind": "p", "root": 1, "objects": [{"kind": "p"}], "sums": {}}',
    "deep inside": '{"version": 1, "kind": "p", "root": ' + "[" * 900 + "]" * 900 + ', "objects": [], "sums": {}}',
}


@pytest.mark.parametrize("name", [name for name in HEADERS if name != "deep inside"])
def test_a_header_of_another_layout_is_refused(policy, tmp_path, name):
    changed = damage.rewrite(policy, tmp_path / "changed", lambda _: HEADERS[name])
    with pytest.raises(StorageError, match="changed' is damaged: "):
        cai.load(changed)


def test_deep_nesting_is_no_error_of_another_kind(policy, tmp_path):
    changed = damage.rewrite(policy, tmp_path / "changed", lambda _: HEADERS["deep inside"])
    with contextlib.suppress(StorageError):
        cai.load(changed)


THINGS = {
    "policy": lambda: cai.extract_policy(cai.infer(lottery())),
    "model": lambda: bridge(horizon=2),
    "exact": lambda: cai.infer(lottery(), "exact"),
    "max-product": lambda: cai.infer(lottery(), "max-product"),
    "smc": lambda: cai.infer(lottery(), "smc", num_particles=20),
    "comparison": lambda: cai.compare(lottery(), ["exact"], num_rollouts=10),
}
OTHERS = ("x", -1, 7, 0.5, True, [], {}, {"$": "object", "is": 0}, {"$": "float", "is": "nan"}, [[1]], None)


@pytest.mark.parametrize("name", THINGS)
def test_a_file_changed_anywhere_is_read_or_refused_as_damaged(tmp_path, name):
    path, draw = THINGS[name]().save(tmp_path / "thing"), random.Random(name)
    refused = 0
    for _ in range(150):

        def change(document):
            known = copy.deepcopy(document)
            where = draw.choice([place for place in places_of(document) if place])
            return damage.put(known, where, draw.choice(OTHERS))

        refused += refuses(damage.rewrite(path, tmp_path / "changed", change))
    assert refused > 30


def places_of(document):
    return list(damage.places(document))


def refuses(path):
    try:
        load(path)
    except StorageError as error:
        return str(path) in str(error)
    return False

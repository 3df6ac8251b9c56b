"""Attributes that are worked out when they are first looked at."""

import weakref
from dataclasses import dataclass

import pytest
import torch

import cai
from cai.inference.core.lazy import Later, deferrable, mapped, resolved, stored_fields
from cai.models import MDP, TrajectoryModel


@dataclass(frozen=True, eq=False)
class Pair:
    left: object
    right: object


deferrable(Pair, "left")


class Counter:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.calls


def test_what_is_held_is_worked_out_once():
    counter = Counter()
    later = Later(counter)
    assert counter.calls == 0
    assert [later(), later(), later()] == [1, 1, 1]


def test_what_is_not_held_is_worked_out_each_time():
    later = Later(Counter(), held=False)
    assert [later(), later(), later()] == [1, 2, 3]


def test_what_a_held_value_was_made_of_is_let_go():
    class Large:
        pass

    def promise():
        large = Large()
        return Later(lambda: str(large)), weakref.ref(large)

    later, watched = promise()
    assert watched() is not None
    later()
    assert watched() is None


def test_a_failure_is_raised_at_each_look_and_keeps_nothing():
    counter = Counter()

    def fails():
        if counter() < 3:
            raise RuntimeError("not yet")
        return "found"

    later = Later(fails)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not yet"):
            later()
    assert (later(), later(), counter.calls) == ("found", "found", 3)


@pytest.mark.parametrize("held", [True, False])
def test_gradients_are_recorded_as_they_were_when_it_was_promised(held):
    weight = torch.ones(2, requires_grad=True)
    recording = Later(lambda: 2 * weight, held=held)
    with torch.no_grad():
        silent = Later(lambda: 2 * weight, held=held)
        assert recording().requires_grad
        assert not torch.is_grad_enabled()
    assert not silent().requires_grad
    assert torch.is_grad_enabled()


def test_a_field_gives_what_the_promise_is_worth():
    counter = Counter()
    pair = Pair(Later(counter), Later(counter))
    assert counter.calls == 0
    assert (pair.left, pair.left) == (1, 1)
    assert isinstance(pair.right, Later)  # only the fields that were named
    assert Pair(5, 6).left == 5
    with pytest.raises(AttributeError, match="left"):
        _ = Pair.left


def test_a_failing_field_names_its_own_error():
    def fails():
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        _ = Pair(Later(fails), 0).left


def test_copies_share_the_promise():
    counter = Counter()
    pair = Pair(Later(counter), 0)
    copy = Pair(**stored_fields(pair) | {"right": 7})
    assert counter.calls == 0
    assert copy.right == 7
    assert (copy.left, pair.left, counter.calls) == (1, 1, 1)


def test_values_and_promises_are_treated_alike():
    assert (resolved(3), mapped(3, lambda x: x + 1)) == (3, 4)
    counter = Counter()
    for held, expected in ((True, [10, 10]), (False, [20, 30])):
        later = mapped(Later(counter, held=held), lambda x: 10 * x)
        assert later.held is held
        assert [resolved(later), resolved(later)] == expected


def test_a_mapped_promise_asks_a_held_one_once():
    counter, times = Counter(), Counter()
    inner = Later(counter)
    outer = mapped(inner, lambda x: (x, times()))
    assert (outer(), outer(), inner()) == ((1, 1), (1, 1), 1)


def test_a_replaced_posterior_is_still_deferred():
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    posterior = cai.infer(TrajectoryModel(mdp, [[-1.0], [0.5]], 3), "exact", keep="evidence")
    changed = posterior.replace(backend="copy")
    deferred = {name for name, value in stored_fields(changed).items() if isinstance(value, Later)}
    assert {"values", "q_values", "action_probs", "state_marginals", "believed_return"} <= deferred
    assert changed.backend == "copy"
    assert torch.equal(changed.values, posterior.values)
    table = torch.zeros(3, 2)
    assert posterior.replace(values=table).values is table
    with pytest.raises(TypeError, match="no attribute 'value'"):
        posterior.replace(value=table)

"""Python numbers in reward functions are float64, for the thread that evaluates them alone."""

import threading

import pytest
import torch

from cai.models.common.default_dtype import NumbersOf

STATE = torch.arange(5)
MASK = STATE > 2
TABLE = torch.linspace(0, 1, 5, dtype=torch.float64)
SHORT = torch.linspace(0, 1, 5, dtype=torch.float32)

EXPRESSIONS = {
    "scaled": lambda: 0.1 * STATE,
    "divided": lambda: STATE / 3,
    "inverse": lambda: 1 / (STATE + 1),
    "power": lambda: STATE**0.3,
    "base": lambda: 0.3**STATE,
    "chosen": lambda: torch.where(STATE == 3, 0.1, 0.7),
    "chosen or own": lambda: torch.where(MASK, STATE, 0.1),
    "mask": lambda: MASK * 0.1 - ~MASK / 3,
    "made": lambda: torch.tensor([0.1, 0.2])[STATE % 2],
    "made of one": lambda: torch.tensor(0.1) + STATE,
    "full": lambda: torch.full((5,), 0.1) * STATE,
    "spaced": lambda: torch.linspace(0, 0.7, 5),
    "as tensor": lambda: torch.as_tensor([0.1, 0.3, 0.4, 0.5, 0.6]),
    "zeros": lambda: torch.zeros(5).add_(0.1),
    "empty": lambda: torch.empty(5).fill_(0.1),
    "ones": lambda: torch.ones(5) / 3,
    "new": lambda: STATE.new_tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64),
    "roots": lambda: torch.sqrt(STATE) + torch.exp(-STATE) + torch.sin(STATE),
    "clamped": lambda: STATE.clamp(min=0.1) + torch.clamp(STATE, max=2.3),
    "table": lambda: TABLE[STATE] * 0.1,
    "short table": lambda: SHORT[STATE] * 0.1,
    "named": lambda: STATE.float() * 0.1,
    "named as well": lambda: STATE.to(torch.float32) / 3,
    "stacked": lambda: torch.stack([0.1 * STATE, 0.2 * STATE]).sum(0),
    "distance": lambda: torch.hypot(STATE * 0.1, (STATE - 1) * 0.3),
    "averaged": lambda: torch.stack([STATE, STATE]).mean(0, dtype=torch.float64) * 0.1,
    "atan2": lambda: torch.atan2(STATE, STATE + 1),
    "eye": lambda: (torch.eye(5) / 3)[STATE],
}


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numbers_are_those_of_another_default_dtype(name, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        expected = EXPRESSIONS[name]()
    finally:
        torch.set_default_dtype(before)
    with NumbersOf(torch.float64), NumbersOf(dtype):
        found = EXPRESSIONS[name]()
    assert torch.get_default_dtype() == before
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_another_thread_sees_its_own_default():
    seen = []
    with NumbersOf(torch.float64):
        thread = threading.Thread(target=lambda: seen.append((0.1 * STATE).dtype))
        thread.start()
        thread.join()
        assert (0.1 * STATE).dtype == torch.float64
    assert seen == [torch.float32]
    assert (0.1 * STATE).dtype == torch.float32

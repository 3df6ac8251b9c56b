"""How often a question crosses from one file to another: what is read to follow it stays short."""

import os
import sys
from itertools import groupby

import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(cai.__file__)))
FLOORS = tuple(os.path.join(ROOT, floor) + os.sep for floor in ("cai", "models", "inference"))
CHANCES = torch.full((3, 2, 3), 1 / 3, dtype=torch.float64)


def crossings(call):
    """How often calls and returns go from a file of the package to another one."""
    places = []

    def inside(frame):
        return os.path.realpath(frame.f_code.co_filename).startswith(FLOORS)

    def follow(frame, event, _):
        if event not in ("call", "return") or not inside(frame):
            return
        if event == "return":
            frame = frame.f_back
            while frame is not None and not inside(frame):
                frame = frame.f_back
        if frame is not None:
            places.append(frame.f_code.co_filename)

    sys.setprofile(follow)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(list(groupby(places))) - 1


@pytest.fixture
def two_threads():
    """As most machines have: some files are entered only where there are threads to be limited."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def model(**options):
    return TrajectoryModel(
        MDP(CHANCES, [1.0, 0.0, 0.0]),
        torch.tensor([[0.0, -1.0], [0.5, 1.0], [2.0, 0.0]], dtype=torch.float64),
        5,
        **options,
    )


def gradient():
    reward = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    cai.infer(TrajectoryModel(MDP(CHANCES, [1.0, 0.0, 0.0]), reward, 5), "exact").log_evidence.backward()


def beliefs():
    posterior = cai.infer(model(), "exact")
    return posterior.believed_return, posterior.luck, posterior.state_marginals


# The most that each may take, half of what it took before files were laid out by what is read together.
TRIPS = {
    "a model": (model, 30),
    "exact policy": (lambda: cai.infer(model(), "exact").action_probs, 125),
    "exact return, luck and marginals": (beliefs, 301),
    "gradient": (gradient, 204),
    "batch": (lambda: cai.infer(model().batch(temperature=[0.5, 1.0, 2.0]), "exact").action_probs, 463),
    "comparison": (lambda: cai.compare(model(), ["exact", "variational"], num_rollouts=50), 722),
}


@pytest.mark.parametrize("name", TRIPS)
def test_a_question_crosses_few_files(name, two_threads):
    call, most = TRIPS[name]
    call()  # what is made once
    assert 0 < crossings(call) <= most

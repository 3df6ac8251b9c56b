"""How far a question travels: how often a call goes from file to file, and back."""

import functools
import os
import sys
from pathlib import Path

import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def place(name):
    """The file's path in the project, None outside."""
    path = Path(os.path.realpath(name))
    floors = [ROOT / floor for floor in ("cai", "models", "inference")]
    return path if any(floor in path.parents for floor in floors) else None


def crossings(call):
    route = []

    def follow(frame, event, argument):
        here = place(frame.f_code.co_filename)
        if here is None or event not in ("call", "return"):
            return
        while event == "return" and (frame := frame.f_back) is not None:
            if here := place(frame.f_code.co_filename):
                break
        if here is not None and route[-1:] != [here]:
            route.append(here)

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        call()
    finally:
        sys.setprofile(before)
    return len(route) - 1


def small_model():
    chances = torch.tensor(
        [[[0.9, 0.1, 0], [0, 0.9, 0.1]], [[0, 1, 0], [0.1, 0, 0.9]], [[0, 0, 1], [0, 0, 1]]]
    ).double()
    reward = torch.tensor([[0.0, -1], [0.0, 0.5], [1, 1]]).double()
    return TrajectoryModel(MDP(chances / chances.sum(-1, keepdim=True), [1.0, 0, 0]), reward=reward, horizon=5)


def beliefs():
    answer = cai.infer(small_model(), "exact")
    return answer.believed_return, answer.luck, answer.state_marginals


def batch():
    answers = cai.infer(small_model().batch(temperature=[0.5, 1.0, 2.0]), "exact")
    return answers.log_evidence, answers.action_probs


TRIPS = {  # half of what they took when all of inference lay in one folder
    "model": (small_model, 30),
    "exact": (lambda: cai.infer(small_model(), "exact").action_probs, 125),
    "beliefs": (beliefs, 301),
    "batch": (batch, 463),
    "compare": (lambda: cai.compare(small_model(), ["exact", "variational"], num_rollouts=50), 722),
}


@pytest.mark.parametrize("name", TRIPS)
def test_a_question_travels_half_as_far(name):
    call, most = TRIPS[name]
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # with one there is none to spare, and less to do
    try:
        call()  # what is made once
        assert crossings(call) <= most
    finally:
        torch.set_num_threads(before)

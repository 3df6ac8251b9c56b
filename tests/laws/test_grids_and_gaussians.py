"""A linear-Gaussian model and its grid are one problem: vectors over nodes and quadratic functions say the same."""

import math

import pytest
import torch

import cai
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward, discretize

STATES, ACTIONS = torch.arange(-40, 41).double() * 0.2, torch.arange(-24, 25).double() * 0.25


def walk(**changes):
    arguments = {
        "noise": [[0.16]],
        "initial": ([0.5], [[0.25]]),
        "horizon": 4,
        "reward": QuadraticReward(Q=[[0.8]], R=[[0.4]], N=[[0.2]], q=[0.1], r=[-0.1], const=0.3, final=[[1.0]]),
        "action_prior": LinearNormal(K0=[[-0.2]], k0=[0.1], L=[[0.64]]),
        "temperature": 1.5,
    } | changes
    return LinearGaussianModel([[0.9]], [[0.7]], offset=[0.1], **arguments)


def grid(model, **options):
    return discretize(model, [STATES], [ACTIONS], **options)


def test_both_targets_agree_on_density_nodes():
    model = walk()
    exact, table = cai.infer(model, "exact"), cai.infer(grid(model), "exact")
    assert float(exact.log_evidence) == pytest.approx(float(table.log_evidence), abs=1e-7)
    assert float(exact.believed_return) == pytest.approx(float(table.believed_return), abs=1e-6)
    assert float(exact.luck) == pytest.approx(float(table.luck), abs=1e-6)
    s = 45
    place = STATES[s : s + 1]
    assert float(exact.value(place, 0)) == pytest.approx(float(table.values[0, s]), abs=1e-6)
    mean = float((table.action_probs[1, s] * ACTIONS).sum())
    assert float(exact.policy().mean(place, 1)) == pytest.approx(mean, abs=1e-6)
    fixed, table = cai.infer(model, "variational"), cai.infer(grid(model), "variational")
    assert float(fixed.elbo) == pytest.approx(float(table.elbo), abs=1e-7)


@pytest.mark.parametrize("eta", [-0.3, 0.5])
def test_every_eta_between_agrees(eta):
    found = [cai.infer(model, "risk", eta=eta).details["start"] for model in (walk(), grid(walk()))]
    assert float(found[0]) == pytest.approx(float(found[1]), abs=1e-7)


def test_a_discount_takes_the_same_from_both_and_leaves_the_final_reward_whole():
    model = walk(discount=0.8)
    fixed, table = cai.infer(model, "variational"), cai.infer(grid(model), "variational")
    assert float(fixed.elbo) == pytest.approx(float(table.elbo), abs=1e-7)
    assert float(fixed.believed_return) == pytest.approx(float(table.believed_return), abs=1e-6)


def test_flat_evidence_is_that_of_the_table_and_the_log_volume_of_the_box():
    model = walk(action_prior=Flat(), temperature=0.5)  # at which the box holds all actions that count
    table = cai.infer(grid(model), "exact").log_evidence + 4 * math.log(12)
    assert float(cai.infer(model, "exact").log_evidence) == pytest.approx(float(table), abs=1e-6)


def test_under_the_exact_target_an_interpolated_table_is_another_problem():
    model = walk(noise=None, initial=([3.05], [[0.0]]))
    table = grid(model, noise="interpolate")
    biased = float(cai.infer(table, "exact").log_evidence) - float(cai.infer(model, "exact").log_evidence)
    fixed = float(cai.infer(table, "variational").elbo) - float(cai.infer(model, "variational").elbo)
    assert biased > 0.005
    assert abs(fixed) < 0.03
    assert biased > fixed + 0.005


def test_particles_of_the_program_agree_with_the_table_under_a_discount():
    """The program's own sites end the chains, the table's absorbing state those of the other."""
    model = walk(discount=0.8)
    smc = cai.infer(model, "smc", num_particles=8000, seed=2)
    exact = float(cai.infer(grid(model), "exact").log_evidence)
    assert float(smc.log_evidence) == pytest.approx(exact, abs=4 * float(smc.details["log_evidence_error"]))

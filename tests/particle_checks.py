"""Small models for particles, and the z-test of unbiasedness."""

import math
from statistics import NormalDist

import numpy as np
import torch
from methods import FAILURE_RATE

from cai.inference.particles.particles import move_particles
from cai.models import MDP, TrajectoryModel


def small(**options):
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    return TrajectoryModel(mdp, **{"reward": [1.0, 0.0], "horizon": 2, **options})


def estimates(system, count, num_particles, threshold, log_psi=None):
    runs = [
        move_particles(system, num_particles=num_particles, ess_threshold=threshold, log_psi=log_psi, seed=seed)
        for seed in range(count)
    ]
    return torch.stack([run.log_evidence for run in runs])


def is_unbiased(logs, log_evidence, tests=1):
    """Whether exp(logs) have the mean exp(log_evidence), by a z-test."""
    shares = (logs - log_evidence).exp()
    error = float(shares.std()) / math.sqrt(len(shares))
    limit = -NormalDist().inv_cdf(FAILURE_RATE / (2 * tests))
    return abs(float(shares.mean()) - 1) <= limit * error + 1e-12


def narrow(horizon, width=40):
    """One way in `width` goes on, all others are forbidden: a prior particle survives with probability 1 / width."""
    mdp = MDP(np.full((1, width, 1), 1.0), [1.0])
    reward = np.full((1, width), -math.inf)
    reward[0, 0] = 1.0
    return TrajectoryModel(mdp, reward, horizon)

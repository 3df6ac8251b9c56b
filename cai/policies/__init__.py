"""Policies, what acts: tables and plans, beliefs, particles; and runs of them in environments."""

from cai.policies.belief import BeliefPolicy
from cai.policies.environments import Episodes
from cai.policies.gaussian_policy import GaussianPolicy
from cai.policies.guide_policy import GuidePolicy
from cai.policies.network_policy import LearnedPolicy
from cai.policies.particle_policy import ParticlePolicy, particle_policy
from cai.policies.policy import Policy, extract_policy
from cai.policies.replanning_policy import ReplanningPolicy
from cai.policies.tabulated import tabulated

__all__ = [
    "BeliefPolicy",
    "Episodes",
    "GaussianPolicy",
    "GuidePolicy",
    "LearnedPolicy",
    "ParticlePolicy",
    "Policy",
    "ReplanningPolicy",
    "extract_policy",
    "particle_policy",
    "tabulated",
]

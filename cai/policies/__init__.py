"""Policies extracted from answers: tables, plans, particles, beliefs."""

from cai.policies.belief import BeliefPolicy
from cai.policies.particle_policy import ParticlePolicy, particle_policy
from cai.policies.policy import Policy, extract_policy

__all__ = ["BeliefPolicy", "ParticlePolicy", "Policy", "extract_policy", "particle_policy"]

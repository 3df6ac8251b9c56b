"""Answers learned from samples: soft Q-learning, actor-critic, policy gradient, path consistency."""

from cai.inference.learning.composition import compose
from cai.inference.learning.skills import Skills, skills
from cai.inference.learning.svgd import amortized_svgd

__all__ = ["Skills", "amortized_svgd", "compose", "skills"]

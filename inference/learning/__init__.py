"""Answers learned from samples: soft Q-learning, actor-critic, policy gradient, path consistency."""

from cai.inference.learning.composition import compose

__all__ = ["compose"]

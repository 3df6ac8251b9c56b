"""Answers learned from samples: soft Q-learning, actor-critic, policy gradient, path consistency."""

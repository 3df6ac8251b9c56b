"""Policies over continuous actions: exact bounds where all is linear-Gaussian, sampled trajectories elsewhere."""

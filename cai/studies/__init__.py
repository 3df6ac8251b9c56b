"""Comparisons, sweeps, explanations and constraints."""

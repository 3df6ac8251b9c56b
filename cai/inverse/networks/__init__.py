"""Fits of route networks: recursive logit with one factorisation for all destinations."""

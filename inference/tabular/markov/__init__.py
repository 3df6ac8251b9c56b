"""Markov chains: their graphs, the linear systems I - P, and what is expected along them."""

"""Policies of a restricted class: exact and sampled gradients, weighted regression."""

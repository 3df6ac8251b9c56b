"""Learners with networks, for worlds whose states are vectors: buffers, collectors, policies and their updates."""

"""Learners on numbered states, whose parameters are tables [T, S, A]."""

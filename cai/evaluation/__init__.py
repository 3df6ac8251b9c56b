"""Policies in the true, unconditioned world."""

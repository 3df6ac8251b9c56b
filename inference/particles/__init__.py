"""Weighted particles for any model or program."""

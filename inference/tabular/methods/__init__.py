"""Backends that are dynamic programs on tables."""

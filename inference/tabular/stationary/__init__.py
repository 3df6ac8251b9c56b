"""Infinite horizons: which states end, what is solved there, and the bound on the error."""

"""Infinite horizons: convergence, linear systems, reachability."""

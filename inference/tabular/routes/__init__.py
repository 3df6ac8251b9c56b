"""Sums over the routes of a network, for all destinations at once, with derivatives."""

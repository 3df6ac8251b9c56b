"""Plans through continuous worlds: local quadratic models around a trajectory, and weighted bundles of trajectories."""

"""Any Pyro program of trajectories: what its sites are, interventions on it, its factor graph."""

"""Trajectories through continuous spaces: linear-Gaussian problems, problems written as functions, grids of them."""

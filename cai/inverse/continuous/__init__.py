"""Fits of continuous models: Gaussian policies, exact or by the Laplace approximation."""

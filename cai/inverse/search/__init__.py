"""Maximising a log-likelihood over named coefficients: penalties, scales, steps, what is flat or runs away."""

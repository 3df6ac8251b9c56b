"""Rewards by a discriminator that tells a policy from demonstrations: AIRL and GAIL, on tables and with networks."""

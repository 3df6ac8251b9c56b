"""Policies extracted from answers: tables, plans, particles, beliefs."""

"""Reward factors: tables, functions, modules, goals, penalties, and their algebra."""

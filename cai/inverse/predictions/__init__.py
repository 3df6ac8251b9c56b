"""What rewards predict: destinations under way, goals, visits, and what other methods predict instead."""

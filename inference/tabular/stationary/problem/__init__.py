"""A stationary problem as what may happen in it, listed or in tables, and one backup of it."""

"""Messages that are quadratic functions: the soft Riccati recursion for control and for estimation."""

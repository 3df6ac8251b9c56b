"""What of a study must be the same to the last bit."""


def bits(rows):
    """Everything of the rows but how long they took; policies by their bytes."""
    found = []
    for row in rows:
        parts = {name: value for name, value in vars(row).items() if name not in ("seconds", "posterior", "outcome")}
        spread = None if row.outcome is None else (row.outcome.std, row.outcome.cvar)
        policy = row.posterior.action_probs if hasattr(row.posterior, "action_probs") else None
        found.append((repr(parts), repr(spread), None if policy is None else policy.detach().numpy().tobytes()))
    return found

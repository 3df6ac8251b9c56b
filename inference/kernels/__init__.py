"""The two soft recursions, forward and backward in time, fast."""

"""Demonstrations: what somebody was seen to do, from which rewards are learned."""

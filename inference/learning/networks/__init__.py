"""Learners with networks, for worlds whose states are vectors.

`experience` is what they see and keep, `layers` are the networks, `updates` how each learner moves its own, `runs`
steps worlds and updates networks, and `answers` is what comes of that.
"""

"""How each learner moves its networks: one file a learner, and what they share (`brain`)."""

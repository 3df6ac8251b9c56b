"""A run from its start to its files: the learner that steps worlds and updates networks, and how it is resumed."""

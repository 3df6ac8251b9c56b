"""What comes of a run: the policy, the answer with its critic, and averages of several."""

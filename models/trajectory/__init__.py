"""Trajectory models: a process, a reward and a horizon as a Pyro program."""

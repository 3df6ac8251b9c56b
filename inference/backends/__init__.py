"""Backends that answer several kinds of model: each picks the methods by what the model can do, and delegates."""

"""Markov decision processes and what they are made from: tables, graphs, sparse matrices, lists of outcomes."""

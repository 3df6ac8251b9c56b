"""The same recursions as C++ loops, where they were built."""

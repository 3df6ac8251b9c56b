"""Fits of trajectory models: the three objectives, what is learned of a reward, what it says elsewhere."""

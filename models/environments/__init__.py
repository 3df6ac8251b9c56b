"""Worlds that are sampled: Gymnasium environments as worlds, and models as environments; one file a purpose."""

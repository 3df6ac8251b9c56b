"""A reward factor, a model and a backend for cai, in a distribution of their own."""

from cai_tides.backend import FollowThePrior
from cai_tides.flats import tidal_flats
from cai_tides.rewards import Tide, daylight

__all__ = ["FollowThePrior", "Tide", "daylight", "tidal_flats"]

"""How close generated showers are to those of a reference simulation, measured as the community does."""

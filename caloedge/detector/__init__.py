"""Particle to energy in cells: geometries, shower generators, the shower library, events and noise."""

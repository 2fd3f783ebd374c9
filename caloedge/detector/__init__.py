"""Particle to energy in cells: simulated events and their files."""

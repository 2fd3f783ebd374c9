"""Particle to energy in cells: nothing but simulation and its files."""

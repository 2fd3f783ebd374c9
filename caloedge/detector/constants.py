"""Masses of the particles that the detector models shoot or let decay (Particle Data Group 2024)."""

PI0_MASS_GEV = 0.1349768
"""Mass of the neutral pion in GeV."""
PI_CHARGED_MASS_GEV = 0.13957039
"""Mass of the charged pion in GeV."""

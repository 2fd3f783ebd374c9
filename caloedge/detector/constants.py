"""Constants of nature that simulation and reconstruction need."""

PI0_MASS_GEV = 0.1349768
"""Mass of the neutral pion in GeV (PDG)."""

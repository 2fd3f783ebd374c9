"""Figures as SVG, in light and dark."""

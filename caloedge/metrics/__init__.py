"""Figures of merit with bootstrap errors, and the claims that are evaluated on them."""

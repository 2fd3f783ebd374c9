"""Figures of merit with bootstrap errors, and the claims that are judged on them."""

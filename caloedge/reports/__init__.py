"""Draw results as one self-contained page."""

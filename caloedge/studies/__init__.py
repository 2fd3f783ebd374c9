"""Several networks of one recipe side by side: bit widths, sizes, reuse of multipliers."""

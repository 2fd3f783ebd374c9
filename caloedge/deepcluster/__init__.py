"""Whole events of 51 × 51 crystals to photons: the reconstruction chain, its Verilog, its physics and its report."""

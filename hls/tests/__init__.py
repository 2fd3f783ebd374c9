"""Tests of the Verilog parts; not shipped."""

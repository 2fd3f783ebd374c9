"""Hand-written hardware: the Verilog parts in `rtl/` that generated firmware is put together from."""

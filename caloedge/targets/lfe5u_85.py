"""Lattice ECP5 LFE5U-85: the device whose place and route is open, so that its clock can be shown without vendor tools.

The delays are `routed`: a fully unrolled 4-bit network 16-32-16-5 reached 232 MHz with 1 adder per stage, 111.5 MHz with
3 and 75 MHz with 5, which is 2.1 ns + 2.25 ns per adder.
"""

from caloedge.catalog import Target

TARGET = Target(
    description="Lattice ECP5 LFE5U-85, speed grade 6, at 75 MHz",
    part="LFE5U-85F-6BG756C",
    clock_mhz=75.0,
    resources={"LUT": 83_640, "FF": 83_640, "DSP": 156, "BRAM_18K": 208},
    source="Lattice FPGA-DS-02012, ECP5 and ECP5-5G Family Data Sheet",
    family="ecp5",
    device_options=("--85k", "--package", "CABGA756", "--speed", "6"),
    register_delay_ns=2.1,
    adder_delay_ns=2.25,
)

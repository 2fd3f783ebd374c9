"""AMD Zynq-7000 XC7Z020: the device of low-cost teaching and test-beam boards.

The delays are `estimated`; they allow 4 adders per stage at 100 MHz. The pins are a button, a light and the clock of
common boards with this package.
"""

from caloedge.catalog import Target

TARGET = Target(
    description="AMD Zynq-7000 XC7Z020 at 100 MHz",
    part="xc7z020clg400-1",
    clock_mhz=100.0,
    resources={"LUT": 53_200, "FF": 106_400, "DSP": 220, "BRAM_18K": 280},
    source="AMD DS190, Zynq-7000 SoC Data Sheet: Overview",
    family="xc7",
    pins={"clk": "H16", "data": "D19", "result": "R14"},
    register_delay_ns=1.4,
    adder_delay_ns=2.1,
)

"""AMD Kintex UltraScale XCKU115: the device that most published hls4ml results are quoted on.

The delays are `estimated`: no open tool routes this family. They allow 4 adders per stage at 200 MHz.
"""

from caloedge.catalog import Target

TARGET = Target(
    description="AMD Kintex UltraScale XCKU115 at 200 MHz",
    part="xcku115-flvb2104-2-e",
    clock_mhz=200.0,
    resources={"LUT": 663_360, "FF": 1_326_720, "DSP": 5_520, "BRAM_18K": 4_320},
    source="AMD DS890, UltraScale Architecture and Product Data Sheet: Overview",
    family="xcu",
    register_delay_ns=0.8,
    adder_delay_ns=1.05,
)

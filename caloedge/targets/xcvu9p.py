"""AMD Virtex UltraScale+ XCVU9P: the device of many prototype and accelerator boards, and of many published results.

The delays are `estimated`: no open tool routes this family. They allow 5 adders per stage at 200 MHz.
"""

from caloedge.catalog import Target

TARGET = Target(
    description="AMD Virtex UltraScale+ XCVU9P at 200 MHz",
    part="xcvu9p-flga2104-2-e",
    clock_mhz=200.0,
    resources={"LUT": 1_182_240, "FF": 2_364_480, "DSP": 6_840, "BRAM_18K": 4_320, "URAM": 960},
    source="AMD DS890, UltraScale Architecture and Product Data Sheet: Overview",
    family="xcup",
    register_delay_ns=0.6,
    adder_delay_ns=0.88,
)

"""AMD Virtex UltraScale+ XCVU13P: the device of the ATLAS Global Trigger and of the CMS Level-1 trigger upgrade boards.

The delays are `estimated`: no open tool routes this family. They allow 5 adders per stage at 200 MHz.
"""

from caloedge.catalog import Target

TARGET = Target(
    description="AMD Virtex UltraScale+ XCVU13P at 200 MHz",
    part="xcvu13p-flga2577-2-e",
    clock_mhz=200.0,
    resources={"LUT": 1_728_000, "FF": 3_456_000, "DSP": 12_288, "BRAM_18K": 5_376, "URAM": 1_280},
    source="AMD DS890, UltraScale Architecture and Product Data Sheet: Overview",
    family="xcup",
    register_delay_ns=0.6,
    adder_delay_ns=0.88,
)

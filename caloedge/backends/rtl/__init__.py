"""Plain Verilog without vendor tools: unrolled adder graphs and streaming layers, simulated cycle by cycle."""

from caloedge.backends.rtl.design import VARIANTS, preview
from caloedge.backends.rtl.project import build, emulate, simulate_cycles
from caloedge.catalog import Backend

BACKEND = Backend(
    description="plain Verilog, unrolled or streaming, with a cycle-accurate bit-exact simulation by Verilator",
    variants=VARIANTS,
    preview=preview,
    build=build,
    emulate=emulate,
    simulate=simulate_cycles,
    extra="rtl",
)

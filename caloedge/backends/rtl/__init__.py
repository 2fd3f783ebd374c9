"""Plain Verilog without vendor tools: unrolled adder graphs and streaming layers, simulated cycle by cycle."""

from caloedge.backends.rtl.design import NODE_VARIANTS, VARIANTS
from caloedge.backends.rtl.project import build, emulate, preview, simulate_cycles
from caloedge.catalog import Backend

BACKEND = Backend(
    description="plain Verilog, unrolled, streaming or node by node, with a cycle-accurate bit-exact simulation by Verilator",
    variants=(*VARIANTS, *NODE_VARIANTS),
    preview=preview,
    build=build,
    emulate=emulate,
    simulate=simulate_cycles,
    extra="rtl",
)

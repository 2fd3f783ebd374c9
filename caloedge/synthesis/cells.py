"""Resources of a device that the cells of a netlist take: one table, so that every rule of counting stands in one place.

LUT: each LUT1 to LUT6 is one, however many of its inputs are used. Memory and shift registers made of LUTs count the LUTs
that they take. An inverter (INV) counts nothing: it disappears in the logic before or behind it; the raw cell counts keep it.
FF: every flip-flop and latch. CARRY: carry blocks of four bits on AMD devices (a CARRY8 is two); a carry cell of the ECP5 has
two bits and is made of two LUTs, which are counted too. Place and route adds one more wherever a carry enters or leaves a
chain from or to other logic: 18 % more LUTs in one network of adder graphs. MUXF: wide multiplexers between LUTs, which take
none. BRAM_18K: blocks of 18 kbit, so that a RAMB36 is two. A cell that the table does not know is an error, never a zero.
"""

from collections import Counter
from collections.abc import Mapping

from caloedge.errors import BadData

RESOURCES = ("LUT", "FF", "DSP", "BRAM_18K", "URAM", "CARRY", "MUXF")

# LUTs of an AMD memory cell: a LUT holds 64 bits of a single port or 32 bits of two; every further port takes them again.
_AMD_MEMORY_LUTS = {
    **dict.fromkeys(("RAM16X1S", "RAM32X1S", "RAM64X1S"), 1),
    **dict.fromkeys(("RAM16X1D", "RAM32X1D", "RAM64X1D", "RAM128X1S"), 2),
    **dict.fromkeys(("RAM128X1D", "RAM256X1S", "RAM32M", "RAM64M"), 4),
    **dict.fromkeys(("RAM256X1D", "RAM512X1S", "RAM32M16", "RAM64M8", "RAM64X8SW"), 8),
}
_AMD = {
    **{name: {"LUT": 1} for name in ("LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6", "LUT6_2")},
    **{name: {"LUT": 1} for name in ("SRL16", "SRL16E", "SRLC16", "SRLC16E", "SRLC32E")},
    **{name: {"LUT": luts} for name, luts in _AMD_MEMORY_LUTS.items()},
    **{name + edge: {"FF": 1} for name in ("FDRE", "FDSE", "FDCE", "FDPE") for edge in ("", "_1")},
    **{name: {"FF": 1} for name in ("LDCE", "LDPE")},
    **{name: {"MUXF": 1} for name in ("MUXF5", "MUXF6", "MUXF7", "MUXF8", "MUXF9")},
    **{name: {"DSP": 1} for name in ("DSP48E1", "DSP48E2")},
    **{name: {"BRAM_18K": 1} for name in ("RAMB18E1", "RAMB18E2")},
    **{name: {"BRAM_18K": 2} for name in ("RAMB36E1", "RAMB36E2")},
    **{name: {"URAM": 1} for name in ("URAM288", "URAM288_BASE")},
    "CARRY4": {"CARRY": 1},
    "CARRY8": {"CARRY": 2},
    **{name: {} for name in ("INV", "GND", "VCC", "BUFG", "IBUF", "OBUF")},
}
_ECP5 = {
    "LUT4": {"LUT": 1},
    "CCU2C": {"LUT": 2, "CARRY": 1},
    # Four LUTs hold 16 × 4 bits; the write port needs the inputs of two more, which are then lost.
    "TRELLIS_DPR16X4": {"LUT": 6},
    "TRELLIS_FF": {"FF": 1},
    **{name: {"MUXF": 1} for name in ("PFUMX", "L6MUX21")},
    "MULT18X18D": {"DSP": 1},
    "ALU54B": {},  # comes with the multipliers that it adds
    **{name: {"BRAM_18K": 1} for name in ("DP16KD", "PDPW16KD")},
    **{name: {} for name in ("INV", "DCCA", "TRELLIS_IO", "GSR", "VLO", "VHI")},
}
TABLES: Mapping[str, Mapping[str, Mapping[str, int]]] = {"xcup": _AMD, "xcu": _AMD, "xc7": _AMD, "ecp5": _ECP5}
"""Resources that one cell takes, by family and cell type."""

BOOKKEEPING = frozenset({"$scopeinfo"})
"""Cell types that take nothing on the device."""


def count(cells: Mapping[str, int], family: str, source: str) -> dict[str, int]:
    """Return how much of each of `RESOURCES` the cells take, zeros included; `source` names the netlist in errors.

    >>> count({"LUT3": 2, "LUT6": 1, "RAMB36E2": 3, "INV": 5}, "xcup", "core")["BRAM_18K"]
    6
    """
    table = TABLES[family]
    totals: Counter[str] = Counter()
    for cell, number in cells.items():
        if cell in BOOKKEEPING:
            continue
        if cell not in table:
            raise BadData(
                f"{source}: {number} cells of type {cell}, which no rule counts for {family}; extend synthesis/cells.py"
            )
        for resource, amount in table[cell].items():
            totals[resource] += amount * number
    return {resource: totals[resource] for resource in RESOURCES}

"""Tables and counts of thresholds as combinational Verilog, one module for each different row."""

import numpy as np

from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.ops import Table, Threshold

TABLE_ENTRIES = 2**10
"""Larger tables are refused: they are written as cases, for logic instead of memory."""
THRESHOLDS = 64
"""More are counted by a table, where the codes are few enough for one."""


def row_verilog(name: str, op: Table | Threshold, row: Codes, source: Format, span: tuple[int, int]) -> str:
    """Return the module of one row of a table or of thresholds, for input codes from `span[0]` to `span[1]`."""
    low, high = span
    if isinstance(op, Threshold) and high - low >= TABLE_ENTRIES:
        kind, lines = "wire", _count(op, row, source, span)
    else:
        codes = np.arange(low, high + 1)
        values = row[codes - op.first] if isinstance(op, Table) else counted(op, row, codes)
        kind, lines = "reg", _cases(codes, values, source, op.format)
    body = "\n".join(lines)
    return f"""\
// A row of {op.name}.
module {name} (
  input [{source.width - 1}:0] in_data,
  output {kind} [{op.format.width - 1}:0] out_data
);
{body}
endmodule
"""


def counted(op: Threshold, row: Codes, codes: Codes) -> Codes:
    """Return what one row of thresholds makes of codes."""
    return op.base + op.step * np.searchsorted(row, codes, side="right")


def _cases(codes: Codes, values: Codes, source: Format, result: Format) -> list[str]:
    cases = [
        f"      {source.width}'d{code % 2**source.width}: out_data = {result.width}'d{value % 2**result.width};"
        for code, value in zip(codes.tolist(), values.tolist(), strict=True)
    ]
    return ["  always @*", "    case (in_data)", *cases, f"      default: out_data = {result.width}'d0;", "    endcase"]


def _count(op: Threshold, row: Codes, source: Format, span: tuple[int, int]) -> list[str]:
    """Return a comparison for each threshold; one that every or no code reaches stands just outside the codes."""
    wide, width = source.width + 2, op.format.width
    sign = f"in_data[{source.width - 1}]" if source.signed else "1'b0"
    lines = [f"  wire signed [{wide - 1}:0] code = {{{{2{{{sign}}}}}, in_data}};"]
    ends = [min(max(int(code), span[0]), span[1] + 1) for code in row]
    for number, end in enumerate(ends):
        lines.append(f"  wire reached_{number} = code >= {literal(end, wide)};")
    zeros = f"{width - 1}'d0, " if width > 1 else ""
    count = "\n      + ".join(f"{{{zeros}reached_{number}}}" for number in range(len(ends)))
    lines.append(f"  wire [{width - 1}:0] count = {count};")
    return [*lines, f"  assign out_data = {width}'d{op.base % 2**width} + {width}'d{op.step % 2**width} * count;"]


def literal(value: int, width: int) -> str:
    """Return a signed constant in Verilog."""
    return f"{'-' if value < 0 else ''}{width}'sd{abs(value)}"

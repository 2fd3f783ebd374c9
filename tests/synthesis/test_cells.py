import pytest

from caloedge.errors import BadData
from caloedge.synthesis.cells import RESOURCES, TABLES, count


def test_every_lut_is_one_and_an_inverter_none() -> None:
    cells = {f"LUT{inputs}": 1 for inputs in range(1, 7)} | {"INV": 50, "MUXF7": 4, "MUXF8": 2}
    assert count(cells, "xcup", "x") == {"LUT": 6, "FF": 0, "DSP": 0, "BRAM_18K": 0, "URAM": 0, "CARRY": 0, "MUXF": 6}


def test_memory_made_of_luts_counts_its_luts() -> None:
    assert count({"SRL16E": 3, "SRLC32E": 2, "RAM64X1S": 1, "RAM32X1D": 1, "RAM32M": 1}, "xc7", "x")["LUT"] == 3 + 2 + 1 + 2 + 4
    assert count({"RAM64M8": 2, "RAM32M16": 1, "RAM256X1S": 1}, "xcup", "x")["LUT"] == 16 + 8 + 4
    assert count({"TRELLIS_DPR16X4": 2}, "ecp5", "x")["LUT"] == 12


def test_blocks_are_counted_in_their_smallest_unit() -> None:
    resources = count({"RAMB36E2": 3, "RAMB18E2": 1, "URAM288": 2, "DSP48E2": 5, "CARRY4": 3, "CARRY8": 2}, "xcup", "x")
    assert resources == {"LUT": 0, "FF": 0, "DSP": 5, "BRAM_18K": 7, "URAM": 2, "CARRY": 7, "MUXF": 0}
    assert count({"RAMB36E1": 1, "RAMB18E1": 1, "DSP48E1": 1}, "xc7", "x")["BRAM_18K"] == 3


def test_flip_flops_of_all_kinds() -> None:
    assert count({"FDRE": 1, "FDSE": 2, "FDCE": 3, "FDPE": 4, "FDRE_1": 5, "LDCE": 6}, "xcu", "x")["FF"] == 21
    assert count({"TRELLIS_FF": 7}, "ecp5", "x")["FF"] == 7


def test_an_ecp5_carry_cell_is_two_luts() -> None:
    cells = {"LUT4": 10, "CCU2C": 3, "PFUMX": 2, "L6MUX21": 1, "MULT18X18D": 4, "ALU54B": 1, "DP16KD": 5}
    expected = {"LUT": 16, "FF": 0, "DSP": 4, "BRAM_18K": 5, "URAM": 0, "CARRY": 3, "MUXF": 3}
    assert count(cells, "ecp5", "x") == expected
    assert count({"$scopeinfo": 9}, "ecp5", "x") == dict.fromkeys(RESOURCES, 0)


@pytest.mark.parametrize("family", TABLES)
def test_an_unknown_cell_is_no_zero(family: str) -> None:
    with pytest.raises(BadData) as caught:
        count({"FLUX": 3}, family, "p: core")
    assert str(caught.value) == f"p: core: 3 cells of type FLUX, which no rule counts for {family}; extend synthesis/cells.py"


def test_every_rule_gives_known_resources() -> None:
    assert {name for table in TABLES.values() for rule in table.values() for name in rule} <= set(RESOURCES)

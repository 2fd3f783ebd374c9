"""Drive the test vectors of every case through parts without a clock; the cases come from the file named by CASES."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Timer

CASES = json.loads(Path(os.environ["CASES"]).read_text())


@cocotb.test()
async def vectors(dut: Any) -> None:
    ports = [(getattr(dut, f"c{number}_in_data"), getattr(dut, f"c{number}_out_data")) for number in range(len(CASES))]
    wrong: dict[int, str] = {}
    for at in range(max(len(case["events"]) for case in CASES)):
        active = [number for number, case in enumerate(CASES) if at < len(case["events"])]
        for number in active:
            ports[number][0].value = CASES[number]["events"][at][0]
        await Timer(1, "ns")
        for number in active:
            case, got = CASES[number], int(ports[number][1].value)
            want = case["results"][at][0]
            if got != want:
                wrong.setdefault(number, f"{case['part']} {case['parameters']} : {case['events'][at][0]} gives {got}, not {want}")
    assert not wrong, "\n".join(wrong.values())

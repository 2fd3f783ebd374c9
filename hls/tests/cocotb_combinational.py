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
    for at in range(max(len(case["events"]) for case in CASES)):
        active = [(case, *port) for case, port in zip(CASES, ports, strict=True) if at < len(case["events"])]
        for case, given, _ in active:
            given.value = case["events"][at][0]
        await Timer(1, "ns")
        for case, _, got in active:
            want = case["results"][at][0]
            assert int(got.value) == want, (
                f"{case['part']} {case['parameters']}: {case['events'][at][0]} gives {int(got.value)}, not {want}"
            )

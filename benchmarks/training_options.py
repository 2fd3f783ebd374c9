"""What channels_last, bfloat16 and torch.compile do for training on images: `python benchmarks/training_options.py`.

One thread, one run. Prints events per second of whole steps (forward, loss, backward, optimiser) for networks of several
sizes, and the ratio to plain float32; writes reports/training_options.json.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads its BLAS

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from caloedge.arithmetic import FloatArithmetic
from caloedge.computer import computer
from caloedge.files import write_text
from caloedge.losses.image import image_loss
from caloedge.networks.pf_energy import CHANNELS, NETWORK, SIZES

SIDE = 56
REPEATS = 5
BATCHES = {"edge": 5, "trigger": 5, "reference_5m": 5, "reference_25m": 5}
PLAIN = "float32"
OPTIONS: dict[str, tuple[bool, bool, bool]] = {  # channels last, bfloat16, compiled
    PLAIN: (False, False, False),
    "channels last": (True, False, False),
    "channels last, bfloat16": (True, True, False),
    "channels last, compiled": (True, False, True),
}


def rate(size: str, channels_last: bool, bfloat16: bool, compiled: bool) -> dict[str, float]:
    """Return events per second over the repeats, after two steps that warm up."""
    torch.manual_seed(1)
    network: nn.Module = NETWORK.build(FloatArithmetic(), SIZES[size]).train()
    if channels_last:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    called = torch.compile(network) if compiled else network
    batch = BATCHES[size]
    inputs, targets = torch.rand(batch, CHANNELS, SIDE, SIDE), torch.rand(batch, 1, SIDE, SIDE)
    found = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = called(inputs)
        image_loss(outputs.float(), targets).backward()
        optimiser.step()
        found.append(batch / (time.perf_counter() - start))
    kept = found[2:]
    return {"per_s": round(statistics.median(kept), 2), "lowest": round(min(kept), 2), "highest": round(max(kept), 2)}


def main() -> None:
    """Measure every network with every option."""
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for size in BATCHES:
        results[size] = {}
        for name, option in OPTIONS.items():
            found = results[size][name] = rate(size, *option)
            found["ratio"] = round(found["per_s"] / results[size][PLAIN]["per_s"], 2)
            print(f"{size}, batch {BATCHES[size]}, {name}: {found['per_s']:.1f} events/s ({found['ratio']:.2f} times {PLAIN})")
    made = {"computer": computer(), "threads": 1, "unit": "events/s", "origin": "measured", "batches": BATCHES, "rates": results}
    write_text(Path("reports") / "training_options.json", json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

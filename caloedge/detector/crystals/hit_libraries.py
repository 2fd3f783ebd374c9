"""Where events of hits come from: composed of the showers of a library, or as they are in files of the experiment."""

from collections.abc import Iterator
from pathlib import Path

from caloedge.detector.crystals import barrel_events, belle2_files
from caloedge.detector.crystals.belle2_files import Belle2Files
from caloedge.detector.crystals.events import block_generator, check_matrix, split_rows
from caloedge.detector.crystals.geometry import CSI
from caloedge.detector.crystals.hits import HitEvents
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import UserError

HitLibrary = ShowerLibrary | Belle2Files
EVENTS_PER_BLOCK = 500


def open_hits(source: str | Path) -> HitLibrary:
    """Open a library of showers, or the experiment's files, of which a path is one or a folder of some."""
    path = Path(source)
    return belle2_files.open_files(path) if belle2_files.files_at(path) else open_library(source)


def blocks(library: HitLibrary, split: str, n_events: int, seed: int) -> Iterator[HitEvents]:
    """Yield events of one split in blocks; the same arguments give the same events.

    Events of the experiment are too few to train on: there is only the split `all`, and of it the first events, at most
    `n_events`. Raises `UserError` for another split of them, `BadData` for showers in other crystals.
    """
    if isinstance(library, Belle2Files):
        if split != "all":
            raise UserError(f"{library.path}: events of the experiment are there to evaluate on; name a library of showers")
        yield library.first(n_events)
        return
    check_matrix(library, CSI)
    rows = split_rows(len(library), split)
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        generator = block_generator(seed, split, block)
        yield barrel_events.compose(library, rows, min(EVENTS_PER_BLOCK, n_events - first), generator)

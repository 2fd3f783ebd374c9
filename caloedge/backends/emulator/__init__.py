"""A shared library in C++ that runs an integer network on blocks of events, exactly and fast."""

from caloedge.backends.emulator.binding import emulate
from caloedge.backends.emulator.project import BUILDS, build, preview
from caloedge.catalog import Backend

BACKEND = Backend(
    description="C++17 library for fast exact emulation in software, with a C interface and a Python binding",
    variants=tuple(BUILDS),
    preview=preview,
    build=build,
    emulate=emulate,
)

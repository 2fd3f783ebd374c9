"""An hls4ml project for AMD Vitis with every type computed here, and its C simulation."""

from caloedge.backends.hls4ml.plan import VARIANTS, preview
from caloedge.backends.hls4ml.project import build, emulate
from caloedge.catalog import Backend

BACKEND = Backend(
    description="hls4ml project for AMD Vitis, types from proven ranges, bit-exact C simulation",
    variants=VARIANTS,
    preview=preview,
    build=build,
    emulate=emulate,
    extra="hls4ml",
)

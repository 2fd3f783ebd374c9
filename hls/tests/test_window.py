import random

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

SIZES = ["HEIGHT", "WIDTH", "KERNEL_H", "KERNEL_W", "STRIDE_H", "STRIDE_W"]
NAMES = [*SIZES, "PAD_TOP", "PAD_LEFT", "PAD_BOTTOM", "PAD_RIGHT", "BITS"]


def windows(p: dict[str, int], image: list[int]) -> list[int]:
    """Return the windows of an image, pixel by pixel as the definition says."""

    def pixel(row: int, column: int) -> int:
        row, column = row - p["PAD_TOP"], column - p["PAD_LEFT"]
        inside = 0 <= row < p["HEIGHT"] and 0 <= column < p["WIDTH"]
        return image[row * p["WIDTH"] + column] if inside else 0

    rows = (p["HEIGHT"] + p["PAD_TOP"] + p["PAD_BOTTOM"] - p["KERNEL_H"]) // p["STRIDE_H"] + 1
    columns = (p["WIDTH"] + p["PAD_LEFT"] + p["PAD_RIGHT"] - p["KERNEL_W"]) // p["STRIDE_W"] + 1
    return [
        pack(
            [pixel(r * p["STRIDE_H"] + i, c * p["STRIDE_W"] + j) for i in range(p["KERNEL_H"]) for j in range(p["KERNEL_W"])],
            p["BITS"],
        )
        for r in range(rows)
        for c in range(columns)
    ]


def case(*values: int) -> Case:
    rng = random.Random(str(values))
    p = dict(zip(NAMES, values, strict=True))
    events = [[rng.getrandbits(p["BITS"]) for _ in range(p["HEIGHT"] * p["WIDTH"])] for _ in range(8)]
    grid_w = p["WIDTH"] + p["PAD_LEFT"] + p["PAD_RIGHT"]
    return Case(
        "caloedge_window",
        p,
        p["BITS"],
        p["KERNEL_H"] * p["KERNEL_W"] * p["BITS"],
        events,
        [windows(p, event) for event in events],
        cycles=(p["HEIGHT"] + p["PAD_TOP"] + p["PAD_BOTTOM"]) * grid_w,
        latency=(p["KERNEL_H"] - 1) * grid_w + p["KERNEL_W"],
    )


CASES = [
    case(7, 7, 3, 3, 1, 1, 1, 1, 1, 1, 8),
    case(1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1),
    case(4, 3, 1, 1, 1, 1, 0, 0, 0, 0, 5),
    case(3, 5, 3, 5, 1, 1, 0, 0, 0, 0, 3),  # the kernel is the image
    case(2, 2, 4, 3, 1, 1, 1, 0, 1, 1, 4),  # or larger
    case(6, 8, 2, 2, 2, 2, 0, 0, 0, 0, 12),  # pooling
    case(6, 7, 2, 3, 2, 3, 0, 1, 2, 1, 6),  # asymmetric; columns are left over
    case(7, 5, 1, 2, 3, 4, 0, 0, 0, 0, 2),  # strides larger than the kernel
    case(5, 1, 3, 1, 1, 1, 1, 0, 1, 0, 1),  # one column
    case(1, 8, 1, 3, 1, 2, 0, 2, 0, 2, 7),  # one row
]


def test_the_model_itself() -> None:
    p = dict(zip(NAMES, (2, 3, 2, 2, 1, 2, 0, 1, 0, 0, 4), strict=True))
    assert windows(p, [1, 2, 3, 4, 5, 6]) == [0x4010, 0x6532]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_window(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("GRID_H = HEIGHT + PAD_TOP + PAD_BOTTOM;", "GRID_H = HEIGHT + 2 * PAD_TOP;"),
        ("GRID_W = WIDTH + PAD_LEFT + PAD_RIGHT;", "GRID_W = WIDTH + 2 * PAD_LEFT;"),
        ("IMAGE_TOP = PAD_TOP;", "IMAGE_TOP = PAD_BOTTOM;"),
        ("IMAGE_LEFT = PAD_LEFT;", "IMAGE_LEFT = PAD_RIGHT;"),
        ("IMAGE_BOTTOM = PAD_TOP + HEIGHT;", "IMAGE_BOTTOM = HEIGHT;"),
        ("IMAGE_RIGHT = PAD_LEFT + WIDTH;", "IMAGE_RIGHT = WIDTH;"),
        ("FIRST_ROW_WAIT = KERNEL_H - 1;", "FIRST_ROW_WAIT = KERNEL_H;"),
        ("FIRST_COLUMN_WAIT = KERNEL_W - 1;", "FIRST_COLUMN_WAIT = KERNEL_W - 2;"),
        ("NEXT_ROW_WAIT = STRIDE_H - 1;", "NEXT_ROW_WAIT = STRIDE_W - 1;"),
        ("NEXT_COLUMN_WAIT = STRIDE_W - 1;", "NEXT_COLUMN_WAIT = STRIDE_H - 1;"),
        ("next_row > IMAGE_TOP", "row > IMAGE_TOP"),
        ("column < IMAGE_RIGHT", "next_column < IMAGE_RIGHT"),
        ("!out_valid || out_ready;", "!out_valid;"),  # half the speed
        ("!out_valid || out_ready;", "1'b1;"),
        ("free && (in_valid || !in_image)", "free && in_valid"),  # zeros wait for the next pixel
        ("in_ready = free && in_image;", "in_ready = free;"),
        ("if (free) out_valid", "out_valid"),
        ("step && completes;", "completes;"),
        ("in_image ? in_data : {BITS{1'b0}}", "in_data"),
        ("{pixel, lines[address]}", "{lines[address], pixel}"),
        ("slice[SLICE_BITS-1:BITS]", "slice[SLICE_BITS-BITS-1:0]"),  # the newest row is not kept
        ("window[c*SLICE_BITS+r*BITS +: BITS]", "window[(KERNEL_W-1-c)*SLICE_BITS+r*BITS +: BITS]"),
        ("row_wait <= FIRST_ROW_WAIT[ROW_WAIT_BITS-1:0];\n            column_wait", "column_wait"),
        ("            row <= {ROW_BITS{1'b0}};\n            column <= {COLUMN_BITS{1'b0}};\n", ""),
        ("            out_valid <= 1'b0;\n", ""),
    ]
    assert bench.simulate_errors(errors, case(6, 7, 2, 3, 2, 3, 1, 1, 3, 2, 6)) == [True] * len(errors)

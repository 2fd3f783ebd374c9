"""Orient windows plainly: one flip after the other on lists."""

Lines = list[list[int]]


def orient(window: Lines, steps: list[tuple[int, int]]) -> tuple[Lines, list[tuple[int, int]], list[str]]:
    """Return a window and steps from its centre in the window's orientation, and the flips applied to them in their order."""
    applied = []
    if sum(window[4][2:5]) < sum(window[2][2:5]):
        window, steps = window[::-1], [(-x, y) for x, y in steps]
        applied.append("x")
    if sum(line[4] for line in window[2:5]) < sum(line[2] for line in window[2:5]):
        window, steps = [line[::-1] for line in window], [(x, -y) for x, y in steps]
        applied.append("y")
    along_x = sum(window[4][2:5]) - sum(window[2][2:5])
    along_y = sum(line[4] for line in window[2:5]) - sum(line[2] for line in window[2:5])
    assert along_x >= 0
    assert along_y >= 0
    if along_y > along_x:
        window, steps = [list(line) for line in zip(*window, strict=True)], [(y, x) for x, y in steps]
        applied.append("swap")
    return window, steps, applied


def unorient(x: float, y: float, applied: list[str]) -> tuple[float, float]:
    """Return a step in an oriented window as it lies in the event."""
    if "swap" in applied:
        x, y = y, x
    return -x if "x" in applied else x, -y if "y" in applied else y

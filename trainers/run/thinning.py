"""Long curves drawn with few points, so that no spike is lost."""

from __future__ import annotations


def thin(points: list[dict], most: int) -> tuple[list[dict], int]:
    """At most ``most`` points that still show every spike, and how many iterations a pair stands for.

    Each stretch of the run becomes two points that carry, for every number by itself, its least and its greatest value
    there, in the order in which they came. The first and the last point stay as they are.
    """
    if len(points) <= most:
        return points, 1
    inner = points[1:-1]
    size = -(-len(inner) // ((most - 2) // 2))
    shown = [points[0]]
    for start in range(0, len(inner), size):
        shown += extremes(inner[start : start + size])
    return [*shown, points[-1]], size


def extremes(stretch: list[dict]) -> list[dict]:
    """Two points that carry, for every number by itself, its least and its greatest value, in the order in which they came."""
    if len(stretch) == 1:
        return stretch
    first, last = dict(stretch[0]), dict(stretch[-1])
    for key in {key: None for point in stretch for key in point if key != "iteration"}:
        values = [point[key] for point in stretch if isinstance(point.get(key), (int, float))]
        if not values:
            continue
        low, high = min(values), max(values)
        first[key], last[key] = (low, high) if values.index(low) <= values.index(high) else (high, low)
    return [first, last]

"""The Pareto front of points with a cost and a value."""

from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, value) is on the front: no other point costs at most as much and is worth at least as much,
    and differs from it. Equal points are on it together.

    >>> on_front([(0, 5), (1, 7), (2, 6), (2, 9)])
    [True, True, False, True]
    """

    def beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
        return other[0] <= point[0] and other[1] >= point[1] and other != point

    return [not any(beats(other, point) for other in points) for point in points]

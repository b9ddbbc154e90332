"""The numbers that settings may have. A settings class names them as its LIMITS; whoever takes settings checks them once."""
from __future__ import annotations

import sys
from typing import NamedTuple

LARGEST, SMALLEST = sys.float_info.max, sys.float_info.min


class Limits(NamedTuple):
    """least, most: both allowed; words: the same for people; name: what the node calls the setting, where it is not the
    field's own name. Neither infinity nor NaN lies within any limits."""

    least: float
    most: float
    words: str
    name: str = ""

    def ends(self) -> dict[str, float]:
        """min and max of a widget, those that there are; the smallest number above 0 that one shows is 1e-9."""
        least = {} if self.least == -LARGEST else {"min": 1e-9 if self.least == SMALLEST else self.least}
        return least if self.most == LARGEST else least | {"max": self.most}

    def of(self, name: str) -> Limits:
        return self._replace(name=name)


ANY = Limits(-LARGEST, LARGEST, "a number")
FROM_0 = Limits(0, LARGEST, "0 or more")
ABOVE_0 = Limits(SMALLEST, LARGEST, "above 0")
FROM_1 = Limits(1, LARGEST, "1 or more")
FROM_2 = Limits(2, LARGEST, "2 or more")
FROM_0_TO_1 = Limits(0, 1, "between 0 and 1")
BELOW_1 = Limits(0, 1 - sys.float_info.epsilon, "0 or more, and below 1")
INSIDE_0_1 = Limits(SMALLEST, 1 - sys.float_info.epsilon, "above 0 and below 1")


def check_limits(settings: object) -> None:
    """ValueError names the first setting outside of its class's LIMITS: {field: Limits}; None (switched off) passes."""
    for name, limits in getattr(settings, "LIMITS", {}).items():
        value = getattr(settings, name)
        if value is not None and not limits.least <= value <= limits.most:
            usual = getattr(type(settings), name)
            raise ValueError(f"{limits.name or name.replace('_', ' ')}: {value} is not possible; it must be {limits.words}"
                             + ("" if usual is None else f" ({usual:g} is usual)"))

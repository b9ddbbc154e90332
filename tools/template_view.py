"""What is in sight as a template opens: its note, and beside it the node that shows what becomes of it.

The note has no links, so it goes where both are seen at once, as large as it can be; everything else stays where it is.
"""

from __future__ import annotations

from .template import Template
from .template_links import Box, boxes, pieces, runs_over
from .template_places import HEADER, PADDING

SCREEN = Box(80, 132, 1000, 780)  # pixels of a page of 1280 x 800 that no bar, panel or map of the page covers
LARGEST = 0.85  # of a view's scale: nodes are not shown larger
BEGINNING = 460  # of the note's group: so much of it is in sight
STEP, CLEAR = 20, 24  # of what is tried; room around the note's group


def open_on(workflow: dict, template: Template) -> None:
    """Moves the note's group beside the first node of the template's picture, and opens the view on both."""
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    group = next(each for each in workflow["groups"] if within(note, each))
    shown = boxes(workflow)[int(template.picture[0][0])]
    left, top = best(workflow, note, group, shown)
    note["pos"] = [left + PADDING, top + HEADER]
    group["bounding"][:2] = [left, top]
    seen = together(shown, beginning(left, top, *group["bounding"][2:]))
    scale = scale_of(seen)
    workflow["extra"]["ds"] = {
        "scale": round(scale, 2),
        "offset": [round(SCREEN.left / scale - seen.left), round(SCREEN.top / scale - seen.top)],
    }


def within(note: dict, group: dict) -> bool:
    left, top, width, height = group["bounding"]
    return left <= note["pos"][0] < left + width and top <= note["pos"][1] < top + height


def best(workflow: dict, note: dict, group: dict, shown: Box) -> tuple[float, float]:
    """Where the note's group stands clear of everything and is seen with ``shown`` at the largest scale; of several the nearest
    to where it was."""
    was_left, was_top, width, height = group["bounding"]
    others = [box_of(*each["bounding"]) for each in workflow["groups"] if each is not group]
    taken = [grown(box) for box in (*others, *(box for node, box in boxes(workflow).items() if node != note["id"]))]
    links, found = pieces(workflow), []
    for left in range(round(shown.left - width) - 800, round(shown.right) + 800, STEP):
        for top in range(round(shown.top - height) - 800, round(shown.bottom) + 800, STEP):
            here = box_of(left, top, width, height)
            if any(overlap(here, other) for other in taken) or any(runs_over(link, here) for link in links):
                continue
            seen = together(shown, beginning(left, top, width, height))
            found.append((-round(scale_of(seen), 2), abs(left - was_left) + abs(top - was_top), left, top))
    if not found:
        return was_left, was_top
    *_, left, top = min(found)
    return left, top


def beginning(left: float, top: float, width: float, height: float) -> Box:
    return box_of(left, top, width, min(height, BEGINNING))


def box_of(left: float, top: float, width: float, height: float) -> Box:
    return Box(left, top, left + width, top + height)


def grown(box: Box) -> Box:
    return Box(box.left - CLEAR, box.top - CLEAR, box.right + CLEAR, box.bottom + CLEAR)


def overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def together(one: Box, other: Box) -> Box:
    return Box(min(one.left, other.left), min(one.top, other.top), max(one.right, other.right), max(one.bottom, other.bottom))


def scale_of(seen: Box) -> float:
    wide, high = (
        (SCREEN.right - SCREEN.left) / (seen.right - seen.left),
        (SCREEN.bottom - SCREEN.top) / (seen.bottom - seen.top),
    )
    return min(LARGEST, wide, high)

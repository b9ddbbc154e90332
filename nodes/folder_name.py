"""Whether ComfyUI can serve the page's part of the pack from a folder of this name."""
from __future__ import annotations

import logging
import re

# What an address holds as it is. ComfyUI lists scripts below any other name, encoded, and then finds none of them.
SERVED = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]")


def unserved_characters(name: str) -> str:
    """The characters of a folder's name, each once, that keep ComfyUI from serving what lies in it; "" for a good name."""
    return "".join(dict.fromkeys(character for character in name if not SERVED.match(character)))


def warn_of_folder_name(name: str) -> None:
    """One line in the log where the page would stay without the pack's part, and nobody would say why."""
    if wrong := unserved_characters(name):
        logging.warning("PostTrain: ComfyUI serves no scripts from a folder called %r (for %r in it): the nodes work, but their "
                        "curves, pictures and buttons stay away. Rename the folder, to ComfyUI-PostTrain for example, and "
                        "restart ComfyUI.", name, wrong)

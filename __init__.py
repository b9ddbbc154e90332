"""ComfyUI-PostTrain: post-train image models inside the ComfyUI graph."""
from pathlib import Path

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from .nodes.folder_name import warn_of_folder_name

WEB_DIRECTORY = "./web"

warn_of_folder_name(Path(__file__).parent.name)  # of a link, the link's: the name under which ComfyUI knows the pack

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

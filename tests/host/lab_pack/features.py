"""A node for each feature of the host that the body of a loop has to keep."""
from __future__ import annotations

import asyncio

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

CALLS: dict[str, int] = {}


class LabScoreV3(io.ComfyNode):
    """A node of the new schema that reads its hidden values."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="LabScoreV3", category="lab", inputs=[io.Image.Input("images")],
                         outputs=[io.Custom("LAB_SCORES").Output()], hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, images):
        assert cls.hidden.prompt[cls.hidden.unique_id]["class_type"] == "LabScoreV3"
        return io.NodeOutput(images.mean((1, 2, 3)))


class _Node:
    FUNCTION, CATEGORY = "run", "lab"
    RETURN_TYPES: tuple[str, ...] = ("LAB_SCORES",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}


class LabScoreAsync(_Node):
    async def run(self, images):
        await asyncio.sleep(0.001)
        return (images.mean((1, 2, 3)),)


class LabScoreExpand(_Node):
    def run(self, images):
        graph = GraphBuilder()
        return {"result": (graph.node("LabScore", images=images).out(0),), "expand": graph.finalize()}


class LabScoreLazy(_Node):
    """Needs one of its images; the other must never be made."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE", {"lazy": True}), "other": ("IMAGE", {"lazy": True})}}

    def check_lazy_status(self, images=None, other=None):
        return [] if images is not None else ["images"]

    def run(self, images, other=None):
        assert other is None
        return (images.mean((1, 2, 3)),)


class LabSplit(_Node):
    RETURN_TYPES, OUTPUT_IS_LIST = ("IMAGE",), (True,)

    def run(self, images):
        return (list(images.split(1)),)


class LabJoin(_Node):
    RETURN_TYPES, INPUT_IS_LIST = ("IMAGE",), True

    def run(self, images):
        return (torch.cat(images),)


class LabOutside(_Node):
    """Stands before the loop and counts how often it runs; hands out a list of three."""

    RETURN_TYPES, OUTPUT_IS_LIST = ("FLOAT", "INT"), (True, False)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": ""})}}

    def run(self, name):
        CALLS[name] = CALLS.get(name, 0) + 1
        return ([0.0, 0.0, 0.0], CALLS[name])


class LabUseOutside(_Node):
    """Gets three values by list, adds them to the images, and fails if the node outside ran more than once."""

    RETURN_TYPES, INPUT_IS_LIST = ("IMAGE",), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "values": ("FLOAT", {"forceInput": True}),
                             "calls": ("INT", {"forceInput": True})}}

    def run(self, images, values, calls):
        assert len(values) == 3 and calls == [1]
        return (images[0] + sum(values),)


class LabChanging(_Node):
    """Has an IS_CHANGED, whose answer the host writes into the prompt."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def IS_CHANGED(cls, **_):
        return 1

    def run(self, images):
        return (images,)


class LabBlock(_Node):
    RETURN_TYPES = ("IMAGE",)

    def run(self, images):
        from comfy_execution.graph_utils import ExecutionBlocker
        return (ExecutionBlocker(None),)


class LabUnload(_Node):
    """Moves every model out of memory, as the host does where another workflow needs the room."""

    RETURN_TYPES = ("IMAGE",)

    def run(self, images):
        import comfy.model_management
        comfy.model_management.unload_all_models()
        assert not comfy.model_management.current_loaded_models
        return (images,)


FEATURES = {c.__name__: c for c in (LabScoreV3, LabScoreAsync, LabScoreExpand, LabScoreLazy, LabSplit, LabJoin,
                                    LabOutside, LabUseOutside, LabChanging, LabBlock, LabUnload)}

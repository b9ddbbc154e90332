"""What much-used packs do to a host and in a graph, each in its smallest form; nothing of it changes a number.

Nodes that stand on a link hand on what they are given. The rest is done to the host when the pack is loaded.
"""

import functools
import logging
import sys

import comfy.sample
import comfy.samplers
from aiohttp import web
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.graph_utils import GraphBuilder
from server import PromptServer


class AnyType(str):
    """Fits every socket."""

    def __ne__(self, other):
        return False


class AnyInputs(dict):
    """Takes inputs of every name."""

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return (ANY,)


ANY = AnyType("*")


def passing(**members):
    """A node's class that hands on what it is given; members: what is peculiar to it."""

    def inputs(cls):
        return {"required": {"value": (ANY,)}}

    usual = {
        "CATEGORY": "habits",
        "FUNCTION": "run",
        "RETURN_TYPES": (ANY,),
        "INPUT_TYPES": classmethod(inputs),
        "run": lambda self, value: (value,),
    }
    return type("Passing", (), usual | members)


def with_inputs(**kinds):
    return {"INPUT_TYPES": classmethod(lambda cls: kinds)}


def cloned(model, change):
    there = model.clone()
    change(there)
    return (there,)


def look_on(model):
    """As packs do that time steps or cache them: the network is called through a function of theirs."""
    model.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))


def leave_a_note(model):
    model.model_options["transformer_options"] = {**model.model_options["transformer_options"], "habit": object()}


def patch_attention(model):
    model.set_model_attn2_output_patch(lambda out, extra: out)


def expanded(value):
    graph = GraphBuilder()
    first = graph.node("HabitAny", value=value)
    second = graph.node("HabitAny", value=first.out(0))
    return {"result": (second.out(0),), "expand": graph.finalize()}


PIPE = {"required": {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}}
HIDDEN = {"prompt": "PROMPT", "info": "EXTRA_PNGINFO", "id": "UNIQUE_ID", "graph": "DYNPROMPT"}

NODE_CLASS_MAPPINGS = {
    "HabitAny": passing(),
    "HabitAlwaysChanged": passing(IS_CHANGED=classmethod(lambda cls, value: float("nan"))),
    "HabitList": passing(INPUT_IS_LIST=True, OUTPUT_IS_LIST=(True,), run=lambda self, value: (value,)),
    "HabitExpand": passing(run=lambda self, value: expanded(value)),
    "HabitFlexible": passing(
        **with_inputs(required={}, optional=AnyInputs()), run=lambda self, **values: (values["anything"],)
    ),
    "HabitHidden": passing(
        **with_inputs(required={"value": (ANY,)}, hidden=HIDDEN),
        run=lambda self, value, prompt, info, id, graph: (value,) if graph.get_node(id) and prompt else None,
    ),
    "HabitSwitch": passing(
        **with_inputs(
            required={"first": ("BOOLEAN", {"default": True})},
            optional={"a": (ANY, {"lazy": True}), "b": (ANY, {"lazy": True})},
        ),
        check_lazy_status=lambda self, first, a=None, b=None: ["a" if first else "b"],
        run=lambda self, first, a=None, b=None: (a if first else b,),
    ),
    "HabitToPipe": passing(
        **with_inputs(**PIPE), RETURN_TYPES=("BASIC_PIPE",), run=lambda self, model, clip, vae: ((model, clip, vae),)
    ),
    "HabitFromPipe": passing(
        **with_inputs(required={"pipe": ("BASIC_PIPE",)}), RETURN_TYPES=("MODEL", "CLIP", "VAE"), run=lambda self, pipe: pipe
    ),
    "HabitBlock": passing(run=lambda self, value: (ExecutionBlocker(None),)),
    "HabitValidate": passing(
        **with_inputs(required={"value": (ANY,), "file": (["a", "b"],)}),
        VALIDATE_INPUTS=classmethod(lambda cls, input_types, file: True),
        run=lambda self, value, file: (value,),
    ),
    "HabitWrapper": passing(
        **with_inputs(required={"value": ("MODEL",)}),
        RETURN_TYPES=("MODEL",),
        run=lambda self, value: cloned(value, look_on),
    ),
    "HabitNote": passing(
        **with_inputs(required={"value": ("MODEL",)}),
        RETURN_TYPES=("MODEL",),
        run=lambda self, value: cloned(value, leave_a_note),
    ),
    "HabitAttention": passing(
        **with_inputs(required={"value": ("MODEL",)}),
        RETURN_TYPES=("MODEL",),
        run=lambda self, value: cloned(value, patch_attention),
    ),
}


class Stream:
    """In the place of sys.stdout, as packs do that show the log on the page."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


SEEN = {"prompts": 0, "events": 0, "requests": 0, "answers": 0, "samplings": 0}


def counted(key, function):
    @functools.wraps(function)
    def called(*args, **kwargs):
        SEEN[key] += 1
        return function(*args, **kwargs)

    return called


def on_prompt(data):
    SEEN["prompts"] += 1
    data.setdefault("extra_data", {})["habit"] = {"seen": True}
    return data


@web.middleware
async def count_requests(request, handler):
    SEEN["requests"] += 1
    return await handler(request)


@PromptServer.instance.routes.get("/habits")
async def seen(request):
    return web.json_response(SEEN)


PromptServer.instance.add_on_prompt_handler(on_prompt)
PromptServer.instance.app.middlewares.append(count_requests)
PromptServer.instance.send_sync = counted("events", PromptServer.instance.send_sync)
comfy.samplers.calc_cond_batch = counted("answers", comfy.samplers.calc_cond_batch)
comfy.sample.sample = counted("samplings", comfy.sample.sample)
logging.getLogger().addHandler(logging.StreamHandler(Stream(sys.stderr)))
sys.stdout = Stream(sys.stdout)

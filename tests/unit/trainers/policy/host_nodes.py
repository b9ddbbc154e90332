"""Every node of the host that takes a MODEL and returns one, with inputs made from what its sockets say."""
from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path

import comfy.supported_models as supported
import torch
from small_models import BUILD, SIZE, UNET, conditioning, small_model, small_vae, trained_policy

PLAIN = {"INT": 1, "FLOAT": 1.0, "BOOLEAN": False, "STRING": ""}
A_LIST = re.compile(r"[\d, ]+")
LARGE = 1000
A_MODEL = re.compile(r"\bio\.Model\b|[\"']MODEL[\"']")


BUILD["unet"] = lambda: supported.SD15({**UNET, "use_linear_in_transformer": False, "adm_in_channels": None,
                                        "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1]})
SIZE["unet"] = SIZE["sd15"]  # with attention at the latent's own size too, where many nodes act


class NeedsAFile(Exception):
    """An input chooses among files, or comes only from a node that loads one."""


@cache
def host_nodes() -> dict[str, type]:
    """All nodes, loaded as the host loads them. No module with nodes for a MODEL may be missing."""
    import nodes as host  # the host's own, whose folder is on the path
    failed = asyncio.run(host.init_builtin_extra_nodes())
    extras = Path(host.__file__).parent / "comfy_extras"
    lost = [name for name in failed if A_MODEL.search((extras / name).read_text(encoding="utf-8"))]
    assert not lost, f"modules with nodes for a MODEL could not be loaded: {lost}"
    return dict(host.NODE_CLASS_MAPPINGS)


def model_nodes() -> dict[str, type]:
    return {name: node for name, node in host_nodes().items() if "MODEL" in node.RETURN_TYPES
            and any(kind == "MODEL" for kind, _ in _inputs(node).values())}


def _inputs(node) -> dict[str, tuple]:
    """name -> (type or list of choices, options), the required ones first."""
    kinds = node.INPUT_TYPES()
    return {name: (given[0], given[1] if len(given) > 1 else {})
            for part in ("required", "optional") for name, given in kinds.get(part, {}).items()}


def apply(node, kind: str, setting: str = "default"):
    """The MODEL that the node makes out of the small model of this kind, run as the host runs nodes.

    setting: the widgets' "default"; "least", "most": whole numbers at their bounds, others by half smaller or larger, from
    the first to the last step, on the first layer. Not everything acts on small models by default.
    """
    with torch.inference_mode():
        made = _run(node, kind, setting, frozenset())
    return made[[str(t) for t in node.RETURN_TYPES].index("MODEL")]


def _run(node, kind: str, setting: str, wanted: frozenset[str]):
    values, models = {}, 0
    for name, (socket, options) in _inputs(node).items():
        if socket == "MODEL":
            values[name], models = small_model(kind, seed=models), models + 1
        else:
            values[name] = _value(name, socket, options, kind, setting, wanted)
    if getattr(node, "INPUT_IS_LIST", False):
        values = {name: [value] for name, value in values.items()}
    if hasattr(node, "EXECUTE_NORMALIZED"):
        answer = node.EXECUTE_NORMALIZED(**values)
        return answer.result if hasattr(answer, "result") else answer
    return getattr(node(), node.FUNCTION)(**values)


def _value(name: str, socket, options: dict, kind: str, setting: str, wanted: frozenset[str]):
    if isinstance(socket, list) or socket == "COMBO":
        choices = socket if isinstance(socket, list) else options.get("options", [])
        if not choices:
            raise NeedsAFile
        return options.get("default", choices[0])
    if socket in PLAIN:
        return _plain(name, socket, options, setting)
    if socket in MADE:
        return MADE[socket](kind)
    return _from_another_node(socket, kind, wanted | {socket})


def _plain(name: str, socket: str, options: dict, setting: str):
    default = options.get("default", PLAIN[socket])
    if socket == "STRING" and setting != "default":
        return "0" if A_LIST.fullmatch(default) else default
    if setting == "default" or socket in ("STRING", "BOOLEAN"):
        return default
    if name.startswith("start"):
        return options.get("min", default)
    if name.startswith("end"):
        return options.get("max", default)
    least, most = options.get("min", default), options.get("max", default)
    if socket == "INT":  # 0 would often switch the node off
        return max(1, least) if setting == "least" else min(most, LARGE)
    return max(least, default / 2) if setting == "least" else min(most, default * 1.5)


def _from_another_node(socket: str, kind: str, wanted: frozenset[str]):
    """Of the first of the host's nodes that makes such a thing out of what can be made here."""
    for node in host_nodes().values():
        sockets = {s for s, _ in _inputs(node).values() if isinstance(s, str)}
        if tuple(str(t) for t in node.RETURN_TYPES) == (socket,) and not sockets & (wanted | {"MODEL"}):
            try:
                return _run(node, kind, "default", wanted)[0]
            except NeedsAFile:
                continue
    raise NeedsAFile


def _lora(kind: str) -> dict:
    from posttrain.trainers.policy import lora_state_dict
    return lora_state_dict(trained_policy(kind))


MADE = {"CONDITIONING": lambda kind: conditioning(kind, 9), "LATENT": lambda kind: {"samples": torch.zeros(1, *SIZE[kind])},
        "IMAGE": lambda kind: torch.full((1, 64, 64, 3), 0.5), "MASK": lambda kind: torch.ones(1, 64, 64),
        "VAE": small_vae, "LORA_MODEL": _lora, "SIGMAS": lambda kind: torch.linspace(1, 0, 3)}

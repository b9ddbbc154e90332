"""The settings of a run: every widget and wire that shapes the policy, named independently of node ids.

Two graphs that train alike have equal settings, however their nodes are numbered, placed or titled; what only says how
long, where to and how often something is shown is left out.
"""
from __future__ import annotations

from ..model.lora_file import digest_of
from .body import Graph, links_of

# what no result depends on: when it ends, how often things are saved or shown, where votes are kept, how long a person is
# waited for
NEVER = {"when_run_exists", "save_every", "samples_every", "votes_name", "wait_minutes", "stop",
         "evaluation", "continue_from", "card"}
# a loop's own length and place; those of a loop before it say which policy it hands on
OWN = {"run_name", "iterations"}
# widgets that came later, at what changes nothing: a workflow from before goes on, whether it has them or not
LATER = {"start": ("auto", "kaiming"), "adam_epsilon": (-1, 1e-8), "empty_prompts": (0,), "reference_guidance": (1,),
         "PTMaPO.scale": (0.5,), "PTMaPO.temperature": (1000,), "PTCreatePolicy.lora": ("none",),
         "PTCreatePolicy.reference": ("the model without it",), "PTCreatePolicy.partly": (False,),
         "PTCreatePolicy.kind": ("LoRA",), "PTFlowGRPO.step_weights": ("even",),
         "PTOtherComputers.draw_images": ("after each update",)}
# names of files, in whose place the file's digest is remembered
FILES = {"PTCreatePolicy.lora": digest_of, "PTTeacher.lora": digest_of}


def settings_of(prompt: Graph, node: str, inputs: tuple[str, ...]) -> dict[str, object]:
    """"Class.input" -> value, or the source of a wire, over ``node``'s given inputs and all that lies upstream.

    Left out are NEVER, what is as in LATER, and OWN of ``node`` itself and of the Loop Start wired to it.
    """
    links = links_of(prompt[node])
    start = links.get("loop", ("",))[0]
    order = [node, *_ancestry(prompt, [links[key][0] for key in inputs if key in links and key not in NEVER])]
    names = _names(prompt, order)
    settings: dict[str, object] = {}
    for each in order:
        wires = links_of(prompt[each])
        for key, value in prompt[each]["inputs"].items():
            if each == node and key not in inputs or key in NEVER or each in (node, start) and key in OWN:
                continue
            if value in LATER.get(key, LATER.get(f"{prompt[each]['class_type']}.{key}", ())):
                continue
            known_by = FILES.get(f"{prompt[each]['class_type']}.{key}", lambda value: value)
            settings[f"{names[each]}.{key}"] = (
                f"from {names[wires[key][0]]} [{wires[key][1]}]" if key in wires else known_by(value))
    return settings


def defaults_of(settings: dict[str, object], classes: dict[str, type]) -> dict[str, object]:
    """"Class.input" -> what the widget stands at, for every widget of the nodes that ``settings`` has a word of.

    A run that is older than a widget was trained as with its default.
    """
    found = {}
    for name in {key.rpartition(".")[0] for key in settings}:
        node = classes.get(name.partition(" #")[0])
        for specs in node.INPUT_TYPES().values() if node is not None else ():
            found |= {f"{name}.{key}": spec[1]["default"] for key, spec in specs.items()
                      if isinstance(spec, (tuple, list)) and len(spec) > 1 and "default" in spec[1]}
            found |= {f"{name}.{key}": spec[0][0] for key, spec in specs.items()
                      if isinstance(spec, (tuple, list)) and isinstance(spec[0], (tuple, list)) and spec[0]
                      and f"{name}.{key}" not in found}
    return found


def plain(names: dict[str, str]):
    """A setting's name as the user knows it, from the display names of the node classes."""
    def translate(key: str) -> str:
        node, _, name = key.rpartition(".")
        base, space, number = node.partition(" ")
        return f"{names.get(base, base)}{space}{number}, {name}"
    return translate


def _ancestry(prompt: Graph, roots: list[str]) -> list[str]:
    """Depth first along the inputs' names: the same order for every numbering of the same graph."""
    order: dict[str, None] = {}
    waiting = list(reversed(roots))
    while waiting:
        node = waiting.pop()
        if node in order:
            continue
        order[node] = None
        links = links_of(prompt[node])
        waiting.extend(links[key][0] for key in sorted(links, reverse=True) if key not in NEVER)
    return list(order)


def _names(prompt: Graph, order: list[str]) -> dict[str, str]:
    """Class name, and a number from the second of a class on."""
    counts: dict[str, int] = {}
    names = {}
    for node in order:
        kind = prompt[node]["class_type"]
        counts[kind] = counts.get(kind, 0) + 1
        names[node] = kind if counts[kind] == 1 else f"{kind} #{counts[kind]}"
    return names

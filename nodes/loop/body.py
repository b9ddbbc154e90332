"""Which nodes lie between Loop Start and Loop End. Works on the prompt alone: node id -> {"class_type", "inputs"}."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from ...rewards.base.words import brief

START, END = "PTLoopStart", "PTLoopEnd"
# what Loop Start hands to the body, by slot
LOOP_SLOT, POLICY_SLOT, ITERATION_SLOT = range(3)
Graph = dict[str, dict]
Link = tuple[str, int]


@dataclass(frozen=True)
class Body:
    """start, end: ids of the two loop nodes. nodes: the body's own, under their ids. outside: links into the body from
    nodes before it. results: input of Loop End -> where its value comes from. shown: output nodes of the body."""

    start: str
    end: str
    nodes: Graph
    outside: tuple[Link, ...]
    results: dict[str, Link]
    shown: tuple[str, ...]
    __repr__ = brief

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Body:
        fields = json.loads(text)
        fields["outside"] = tuple((node, slot) for node, slot in fields["outside"])
        fields["results"] = {key: (node, slot) for key, (node, slot) in fields["results"].items()}
        return cls(**fields | {"shown": tuple(fields["shown"])})


def is_link(value: object) -> bool:
    pair = isinstance(value, list) and len(value) == 2
    return pair and isinstance(value[0], str) and isinstance(value[1], (int, float))


def links_of(node: dict) -> dict[str, Link]:
    return {key: (value[0], int(value[1])) for key, value in node["inputs"].items() if is_link(value)}


def nodes_before(node_of: Callable[[str], dict], names: Iterable[str]) -> dict[str, dict]:
    """These nodes and all that they hang on, as ComfyUI's API has them. node_of: a node's id -> the node."""
    found: dict[str, dict] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            content = node_of(name)
            found[name] = {"class_type": content["class_type"], "inputs": dict(content["inputs"])}
            waiting += [source for source, _ in links_of(content).values()]
    return found


def find_body(prompt: Graph, end: str, is_output: Callable[[str], bool]) -> Body:
    """The body of the loop that ends at node ``end``. is_output: whether a node class shows or saves something.

    Kept are the nodes that Loop End needs and those that show something; ValueError names the wrong wire.
    """
    start = _start_of(prompt, end)
    after = _downstream(prompt, end)
    inside = _downstream(prompt, start) - after - {end}
    results = {key: link for key, link in links_of(prompt[end]).items() if key != "loop"}
    _check_policy(prompt, results, start, inside)
    _check_leaks(prompt, after, start, inside)
    shown = tuple(sorted(node for node in inside if is_output(prompt[node]["class_type"])))
    kept = _upstream(prompt, [node for node, _ in results.values()] + list(shown), inside)
    wanted = [link for node in sorted(kept) for link in links_of(prompt[node]).values()] + list(results.values())
    outside = tuple(dict.fromkeys(link for link in wanted if link[0] not in kept and link[0] != start))
    return Body(start, end, {node: fresh(prompt[node]) for node in sorted(kept)}, outside, results, shown)


def has_end(prompt: Graph, start: str) -> bool:
    ends = (node for node in prompt.values() if node["class_type"] == END)
    return any(links_of(end).get("loop") == (start, LOOP_SLOT) for end in ends)


def fresh(node: dict) -> dict:
    """A copy that the host may write to: it stores what IS_CHANGED said in the node it is given."""
    return {**{k: v for k, v in node.items() if k != "is_changed"}, "inputs": dict(node["inputs"])}


def title_of(node: dict, names: dict[str, str]) -> str:
    """What the user sees on the node."""
    return node.get("_meta", {}).get("title") or names.get(node["class_type"], node["class_type"])


def _start_of(prompt: Graph, end: str) -> str:
    link = links_of(prompt[end]).get("loop")
    if link is None or prompt.get(link[0], {}).get("class_type") != START or link[1] != LOOP_SLOT:
        raise ValueError("loop: connect the output 'loop' of Loop Start directly")
    return link[0]


def _check_policy(prompt: Graph, results: dict[str, Link], start: str, inside: set[str]) -> None:
    source = results.get("policy", ("", 0))[0]
    if source not in inside:
        what = "comes straight from Loop Start" if source == start else "does not depend on Loop Start"
        raise ValueError(f"policy: it {what}, so nothing would be trained; wire the policy from Loop Start through "
                         "Rollout, Score, Advantages and Train Step, and from there to Loop End")


def _check_leaks(prompt: Graph, after: set[str], start: str, inside: set[str]) -> None:
    for node in sorted(after):
        for key, (source, slot) in links_of(prompt[node]).items():
            if source in inside or (source == start and slot != LOOP_SLOT):
                raise ValueError(
                    f"The node {title_of(prompt[node], {})} (id {node}) comes after Loop End, but its input '{key}' is "
                    f"wired to {title_of(prompt[source], {})} (id {source}) inside the loop, which has no value there. "
                    "Only what Loop End hands out leaves the loop.")


def _downstream(prompt: Graph, root: str) -> set[str]:
    """Everything that depends on ``root``."""
    users: dict[str, list[str]] = {}
    for node, content in prompt.items():
        for source, _ in links_of(content).values():
            users.setdefault(source, []).append(node)
    return _reach([root], lambda node: users.get(node, ())) - {root}


def _upstream(prompt: Graph, roots: Iterable[str], within: set[str]) -> set[str]:
    """``roots`` and what they need, as far as it lies ``within``."""
    def needs(node: str) -> list[str]:
        return [source for source, _ in links_of(prompt[node]).values() if source in within]
    return _reach([root for root in roots if root in within], needs)


def _reach(roots: list[str], neighbours: Callable[[str], Iterable[str]]) -> set[str]:
    found, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(neighbours(node))
    return found

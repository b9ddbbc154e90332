"""Folds nodes of a serialised graph into a subgraph, as ComfyUI's page keeps one: a node whose type is a definition's id."""

from __future__ import annotations

import uuid

from .template import Fold

NAMESPACE = uuid.UUID("2d0a5d0a-7a0e-4c9b-8a55-5fb0a6d7f1c3")
BORDER_IN, BORDER_OUT = -10, -20  # the ids of a subgraph's two borders
SLOT, TITLE_ROW, WIDGET_ROW, TEXT_BOX = 20, 10, 24, 110
WIDTH, BORDER_WIDTH = 340, 140


def fold(workflow: dict, one: Fold, source: dict, name: str) -> None:
    """Puts the nodes of ``one`` into a subgraph, in place. source: the API graph, which has the widgets' values; name: of the
    template. ValueError where a link would be lost, or two widgets behind one input differ."""
    folding = _Folding(workflow, one, source, name)
    folding.check()
    inputs = [folding.input(slot, label, sockets) for slot, (label, sockets) in enumerate(one.inputs.items())]
    outputs = [folding.output(slot, label, socket) for slot, (label, socket) in enumerate(one.outputs.items())]
    definition = folding.definition([border for _, border in inputs], [border for _, border in outputs])
    node = folding.node(definition["id"], [entry for entry, _ in inputs], [entry for entry, _ in outputs])
    workflow["nodes"] = [*(each for each in workflow["nodes"] if each["id"] not in folding.inside), node]
    workflow["links"] = folding.outer
    workflow["last_node_id"] = max(workflow["last_node_id"], node["id"])
    workflow.setdefault("definitions", {"subgraphs": []})["subgraphs"].append(definition)
    _name_links(workflow["nodes"], folding.outer)
    _name_links(definition["nodes"], folding.inner)


class _Folding:
    """inner, outer: links within the subgraph and around it, those through its borders added one by one."""

    def __init__(self, workflow: dict, one: Fold, source: dict, name: str):
        self.one, self.source, self.name = one, source, name
        self.inside = {int(node) for node in one.nodes}
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in workflow["links"]}
        ends = [(link, len(self.inside & {link[1]}) + len(self.inside & {link[3]})) for link in workflow["links"]]
        self.inner = [link for link, within in ends if within == 2]
        self.outer = [link for link, within in ends if within == 0]
        self.through = [link for link, within in ends if within == 1]
        self.last = max(self.links, default=0)
        self.values: list = []

    def new(self) -> int:
        self.last += 1
        return self.last

    def check(self) -> None:
        entering = {socket for sockets in self.one.inputs.values() for socket in sockets}
        for _, node, place, target, into, _ in self.through:
            comes_in = target in self.inside
            socket = f"{target}.{self.nodes[target]['inputs'][into]['name']}" if comes_in else f"{node}.{place}"
            if socket not in (entering if comes_in else self.one.outputs.values()):
                kind = "inputs" if comes_in else "outputs"
                raise ValueError(f"{self.one.title}: a link goes through {socket}, which is none of its {kind}")

    def socket(self, socket: str) -> tuple[int, int, dict]:
        """ "17.model" -> node, place of the input, its entry."""
        node, _, name = socket.partition(".")
        entries = self.nodes[int(node)]["inputs"]
        index = next(i for i, entry in enumerate(entries) if entry["name"] == name)
        return int(node), index, entries[index]

    def input(self, slot: int, label: str, sockets: list[str]) -> tuple[dict, dict]:
        """The input of the subgraph's node, and that of its border."""
        targets = [self.socket(socket) for socket in sockets]
        kind = targets[0][2]["type"]
        before = {tuple(self.links[entry["link"]][1:3]) for _, _, entry in targets if entry["link"] is not None}
        if len(before) > 1:
            raise ValueError(f"{self.one.title}: {', '.join(sockets)} share one input, and come from {sorted(before)}")
        numbers = [self.new() for _ in targets]
        self.inner += [[number, BORDER_IN, slot, node, index, kind] for number, (node, index, _) in zip(numbers, targets)]
        entry = {"localized_name": label, "name": label, "type": kind, "link": None}
        if before:
            entry["link"] = self.new()
            self.outer.append([entry["link"], *before.pop(), int(self.one.node), slot, kind])
        elif "widget" in targets[0][2]:
            entry["widget"] = {"name": label}
            self.values.append(self.value(sockets))
        return entry, self.border(label, kind, numbers, slot, BORDER_WIDTH - 20)

    def value(self, sockets: list[str]):
        """What the widgets behind one input show."""
        values = [self.source[node]["inputs"][name] for node, name in (socket.split(".") for socket in sockets)]
        if any(value != values[0] for value in values):
            raise ValueError(f"{self.one.title}: {', '.join(sockets)} share one input, and have the values {values}")
        return values[0]

    def output(self, slot: int, label: str, socket: str) -> tuple[dict, dict]:
        node, place = map(int, socket.split("."))
        kind = self.nodes[node]["outputs"][place]["type"]
        going = [[self.new(), int(self.one.node), slot, *link[3:]] for link in self.through if link[1:3] == [node, place]]
        self.outer += going
        self.inner.append([self.new(), node, place, BORDER_OUT, slot, kind])
        entry = {"localized_name": label, "name": label, "type": kind, "links": [link[0] for link in going] or None}
        return entry, self.border(label, kind, [self.last], slot, 20)

    def border(self, label: str, kind: str, links: list[int], slot: int, x: int) -> dict:
        """One place of a border; its position is within the border until that has its own."""
        side = "in" if x > BORDER_WIDTH / 2 else "out"
        return {"id": self.id(side, label), "name": label, "type": kind, "linkIds": links, "localized_name": label,
                "pos": [x, 20 + SLOT * slot]}  # fmt: skip

    def definition(self, inputs: list[dict], outputs: list[dict]) -> dict:
        return {"id": self.id(), "version": 1,
                "state": {"lastGroupId": 0, "lastNodeId": 0, "lastLinkId": 0, "lastRerouteId": 0},
                "revision": 0, "config": {}, "name": self.one.title,
                "inputNode": {"id": BORDER_IN, "bounding": [0, 0, BORDER_WIDTH, 40 + SLOT * len(inputs)]},
                "outputNode": {"id": BORDER_OUT, "bounding": [0, 0, BORDER_WIDTH, 40 + SLOT * len(outputs)]},
                "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": [self.nodes[node] for node in sorted(self.inside)],
                "groups": [], "links": self.inner, "extra": {}}  # fmt: skip

    def node(self, kind: str, inputs: list[dict], outputs: list[dict]) -> dict:
        widgets = [entry for entry in inputs if "widget" in entry]
        boxes = sum(entry["type"] == "STRING" for entry in widgets)
        sockets = max(len(inputs) - len(widgets), len(outputs))
        height = SLOT * sockets + WIDGET_ROW * (len(widgets) - boxes) + TEXT_BOX * boxes + TITLE_ROW
        return {"id": int(self.one.node), "type": kind, "pos": [0, 0], "size": [WIDTH, height], "flags": {}, "order": 0, "mode": 0,
                "inputs": inputs, "outputs": outputs, "title": self.one.title, "properties": {},
                "widgets_values": self.values}  # fmt: skip

    def id(self, *parts: str) -> str:
        return str(uuid.uuid5(NAMESPACE, "/".join([self.name, self.one.node, *parts])))


def _name_links(nodes: list[dict], links: list[list]) -> None:
    """Every socket names its links again."""
    for node in nodes:
        for slot, output in enumerate(node.get("outputs", [])):
            output["links"] = [link[0] for link in links if link[1:3] == [node["id"], slot]] or None
        for slot, entry in enumerate(node.get("inputs", [])):
            entry["link"] = next((link[0] for link in links if link[3:5] == [node["id"], slot]), None)

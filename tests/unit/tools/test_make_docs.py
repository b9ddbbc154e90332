"""Every node that a user can place has a help page, whose settings are the node's own, and a Chinese entry."""
from __future__ import annotations

import json
import re

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.tools.host import ROOT
from posttrain.tools.make_docs import DOCS, internal, refreshed

NODES = {node_id: node for node_id, node in NODE_CLASS_MAPPINGS.items() if not internal(node)}
CHINESE = json.loads((ROOT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
EACH = pytest.mark.parametrize("node_id", NODES)
HAN = re.compile(r"[\u4e00-\u9fff]")


def page(node_id: str) -> str:
    path = DOCS / f"{node_id}.md"
    assert path.is_file(), f"{node_id} has no help page: write web/docs/{node_id}.md as tools/make_docs.py says"
    return path.read_text(encoding="utf-8")


@EACH
def test_it_has_a_page_with_its_parts(node_id):
    text = page(node_id)
    assert text.startswith("# ") and "```" in text and "## When to use it" in text
    what = text.split("```")[2].split("## ")[0]
    assert len(re.findall(r"[.!?](?:\s|$)", what)) >= 3, "what the node does, in three sentences"


@EACH
def test_its_settings_are_the_nodes_own(node_id):
    assert refreshed(page(node_id), NODES[node_id]) == page(node_id), "run python -m tools.make_docs"


TRAINERS = [n for n, node in NODES.items() if node.RETURN_TYPES == ("PT_TRAINER",)]


@pytest.mark.parametrize("node_id", TRAINERS)
def test_a_trainer_is_told_in_one_picture(node_id):
    (words, picture), = re.findall(r"^!\[(.+)\]\((images/\w+\.svg)\)$", page(node_id), re.MULTILINE)
    assert f"<title>{words}</title>".replace("’", "'") in (DOCS / picture).read_text(encoding="utf-8").replace("’", "'")


@pytest.mark.parametrize("node_id", TRAINERS)
def test_a_trainer_names_its_formula_and_paper(node_id):
    text = page(node_id)
    assert re.search(r"## Formula\n\n```\n.*=.*\n", text)
    papers = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", NODES[node_id].DESCRIPTION))
    assert papers <= set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", text)) and papers


def test_every_advantage_rule_has_its_formula():
    formula = page("PTAdvantages").split("## Formula")[1].split("## Paper")[0]
    assert all(re.search(rf"   {rule}( \(|$)", formula, re.MULTILINE) for rule in NODES["PTAdvantages"].INPUT_TYPES()["required"]["rule"][0])


def test_flow_grpos_relatives_are_settings_that_the_nodes_have():
    """Each "`name` value" of the table: a widget of the named node, and for a choice one of its values."""
    inputs = {}
    for node_id in ("PTSampling", "PTFlowGRPO", "PTAdvantages"):
        kinds = NODES[node_id].INPUT_TYPES()
        inputs |= kinds["required"] | kinds.get("optional", {})
    rows = re.findall(r"^\| .+ \|$", page("PTFlowGRPO").split("## Its relatives")[1].split("## Settings")[0], re.MULTILINE)[1:]
    named = [pair for row in rows for pair in re.findall(r"`(\w+)` ([^|`(]+?)(?=,? `| \||,? \()", row)]
    assert len(rows) == 6 and len(named) >= 14
    for name, value in named:
        choices = inputs[name][0]
        assert not isinstance(choices, (tuple, list)) or value in choices, f"{name}: {value}"


def test_there_is_no_page_without_a_node():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)


@EACH
def test_it_speaks_chinese(node_id):
    entry, inputs = CHINESE[node_id], NODES[node_id].INPUT_TYPES()
    assert HAN.search(entry["description"])
    known = {*inputs.get("required", {}), *inputs.get("optional", {})}
    assert set(entry["inputs"]) == known
    assert all(HAN.search(texts["tooltip"]) for texts in entry["inputs"].values())
    assert set(entry["outputs"]) == {str(i) for i in range(len(NODES[node_id].RETURN_TYPES))}

"""Every node that a user can place has a help page, whose settings are the node's own, and Chinese texts that fit it."""
from __future__ import annotations

import copy
import re
import warnings

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.tools.chinese import missing, texts, wrong
from posttrain.tools.make_docs import DOCS, internal, refreshed

NODES = {node_id: node for node_id, node in NODE_CLASS_MAPPINGS.items() if not internal(node)}
CHINESE = texts()
EACH = pytest.mark.parametrize("node_id", NODES)


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
    assert refreshed(page(node_id), NODES[node_id]) == page(node_id), "run python develop.py docs"


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
    assert len(rows) == 8 and len(named) >= 14
    for name, value in named:
        choices = inputs[name][0]
        assert not isinstance(choices, (tuple, list)) or value in choices, f"{name}: {value}"


def test_there_is_no_page_without_a_node():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)


def test_what_there_is_of_chinese_is_right_and_what_is_missing_is_listed():
    """A text of something that is gone, or that is not Chinese, is an error; a missing one is a warning, and a line of
    ``python develop.py docs``."""
    assert not wrong(NODE_CLASS_MAPPINGS, CHINESE)
    for line in missing(NODE_CLASS_MAPPINGS, CHINESE):
        warnings.warn(f"no Chinese yet: {line}", stacklevel=1)


def test_missing_and_wrong_texts_are_seen():
    """Each part of one node taken out, spelled wrongly, or put into English."""
    nodes, whole = {"PTRewardColour": NODES["PTRewardColour"]}, {"PTRewardColour": CHINESE["PTRewardColour"]}
    assert not missing(nodes, whole) and not wrong(nodes, whole)
    assert missing(nodes, {}) == ["PTRewardColour: everything"]
    entry = copy.deepcopy(whole["PTRewardColour"])
    del entry["inputs"]["aim"], entry["inputs"]["low"]["tooltip"], entry["outputs"]["0"], entry["description"]
    assert missing(nodes, {"PTRewardColour": entry}) == [f"PTRewardColour: {part}" for part in (
        "description", "inputs.aim", "inputs.low.tooltip", "outputs.0")]
    entry = copy.deepcopy(whole["PTRewardColour"])
    entry["inputs"]["gone"], entry["outputs"]["1"] = {"tooltip": "\u65e7"}, {"name": "\u65e7"}
    entry["inputs"]["aim"]["tooltip"] = entry["description"] = "English"
    assert wrong(nodes, {"PTRewardColour": entry, "PTGone": {}}) == [
        "PTGone: there is no such node", *(f"PTRewardColour: {words}" for words in (
            "there is no inputs.gone", "there is no outputs.1", "description is not Chinese", "inputs.aim.tooltip is not Chinese"))]

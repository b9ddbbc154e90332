"""The help pages in Chinese: each says what the English one says, with the node's own settings."""

from __future__ import annotations

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.tools.chinese import HAN, texts
from posttrain.tools.chinese_pages import differences, place, refreshed
from posttrain.tools.make_docs import DOCS

KNOWN = texts()
PAGES = sorted(path.parent.name for path in DOCS.glob("*/zh.md"))


@pytest.mark.parametrize("node_id", PAGES)
def test_it_says_what_the_english_page_says(node_id):
    english, chinese = (DOCS / f"{node_id}.md").read_text(encoding="utf-8"), place(node_id).read_text(encoding="utf-8")
    assert differences(english, chinese) == []
    assert chinese.startswith(f"# {KNOWN[node_id]['display_name']}\n")
    assert len(HAN.findall(chinese)) > 60, "it is in Chinese"


@pytest.mark.parametrize("node_id", PAGES)
def test_its_settings_are_the_nodes_own(node_id):
    page = place(node_id).read_text(encoding="utf-8")
    assert refreshed(page, NODE_CLASS_MAPPINGS[node_id], KNOWN[node_id]) == page, "run python develop.py docs"


def test_what_is_lost_or_added_is_seen():
    english = "# A\n\n`a` [b](c)\n\n- one\n- two\n\n## Settings\n\n- **x**: `x`\n\n## Paper\n\narXiv:1234.5678\n"
    chinese = "# 甲\n\n`a` [乙](c)\n\n- 一\n- 二\n\n## 设置\n\n- **子**：丑\n\n## 论文\n\narXiv:1234.5678\n"
    assert differences(english, chinese) == []
    for part, without in {"headings": ("# 甲", "甲"), "items of lists": ("- 二\n", ""), "names": ("`a`", "`b`"),
                          "links": ("(c)", "(d)"), "papers": ("5678", "5679")}.items():  # fmt: skip
        assert differences(english, chinese.replace(*without)) == [part]


def test_a_page_without_a_place_for_settings_is_refused():
    with pytest.raises(ValueError, match="设置"):
        refreshed("# 甲\n", NODE_CLASS_MAPPINGS["PTSPO"], KNOWN["PTSPO"])

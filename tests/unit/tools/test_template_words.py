"""What templates and blocks say beside their nodes has its Chinese, and that is their own."""

from __future__ import annotations

import re
from collections import Counter

from posttrain.tools.chinese import HAN
from posttrain.tools.template_words import chinese, lacking, said


def test_every_text_of_the_templates_has_its_chinese():
    assert lacking() == []
    assert set(chinese()) - set(said()) == set(), "what no template says any more"


def test_it_is_chinese_with_the_same_marks():
    for text, words in chinese().items():
        assert HAN.search(words), text
        for mark in (r"\*\*", r"`[^`]+`", r"^#+ ", r"^\d+\. ", r"^- ", r"https?://\S+", r"^\d  "):
            assert Counter(re.findall(mark, text)) == Counter(re.findall(mark, words)), (mark, text)


def test_no_two_texts_have_the_same_chinese():
    """A workflow that was saved in Chinese is read in English again."""
    assert [words for words, count in Counter(chinese().values()).items() if count > 1] == []

"""What the server says: read from the sources with its gaps, and in Chinese where a user of the page meets it."""

from __future__ import annotations

import ast

from posttrain.tools import sentences

SHOWN = ("nodes/page/", "nodes/loop/", "trainers/run/")
# these reach the page as alarms, with words of their own in web/chinese.js
ALARMS = (
    "On held-out prompts the reward has risen",
    "{1} of the random steps are taken without noise",
    "After {1} iterations the LoRA is still",
)


def test_what_is_raised_is_read_with_its_gaps_numbered():
    source = """
raise ValueError("a plain one")
raise LookupError(f"run: {name!r} has {count:,} of " f"{MOST}")
raise RuntimeError("one " + why + f" of {n}") from error
raise KeyError(name)
raise error
raise OSError(errno.ENOSPC, "no sentence of ours")
def f():
    return "not said"
"""
    assert list(sentences.said(ast.parse(source))) == ["a plain one", "run: {1} has {2} of {3}", "one {1} of {2}"]
    answers = 'def f():\n    return 5, f"kept {x}"\nT = {"a": "as a word"}\ndef g():\n    return ""'
    assert sorted(sentences.said(ast.parse(answers), answers=True)) == ["as a word", "kept {1}"]
    assert list(sentences.said(ast.parse(answers))) == []


def test_the_chinese_ones_are_said_word_for_word():
    assert sentences.wrong(sentences.chinese(), sentences.sentences()) == []


def test_what_is_wrong_is_found():
    there = {"there is no run '{1}'": "x.py", "it is full": "x.py", "a {1} b {2}": "x.py"}
    known = {
        "there is no run '{1}'": "没有名为“{2}”的训练",
        "it is full": "it is full",
        "gone": "不见了",
        "a {1} b {2}": "只有{2}",
    }
    assert sentences.wrong(known, there) == [
        "nothing says: gone",
        "other gaps: there is no run '{1}'",
        "not Chinese: it is full",
    ]


def test_what_reaches_the_page_has_chinese_and_the_rest_is_listed():
    known, there = sentences.chinese(), sentences.sentences()
    lacking = [words for words, name in there.items() if name.startswith(SHOWN) and words not in known]
    assert [words for words in lacking if not words.startswith(ALARMS)] == []
    first, *listed = sentences.report(every=True)
    assert len(listed) == len(set(there) - set(known)) > 100 and f"{len(listed)} of {len(there)}" in first
    assert "rewards/rules " in first and sentences.report() == [first, "  --errors lists them."]

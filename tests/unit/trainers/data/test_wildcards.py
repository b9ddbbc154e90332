"""Choices and comments in prompts: each reading is a prompt, the same ones whenever they are read."""

from __future__ import annotations

import random

import pytest
from posttrain.nodes.prompts import PTPromptList, encode_prompts, one_reading, prompt_set
from posttrain.trainers.data.prompt_files import read_prompts
from posttrain.trainers.data.wildcards import MOST, readings, without_comments

READ = {
    "a {red|blue} cat": ["a red cat", "a blue cat"],
    "{a|b}{c|d}": ["ac", "ad", "bc", "bd"],
    "a {big {red|blue}|small} cat": ["a big red cat", "a big blue cat", "a small cat"],
    "a {|very }small cat": ["a small cat", "a very small cat"],
    "a {red|red} cat": ["a red cat"],
    "{photo|drawing} of (a {red|blue} cat:1.2)": [
        "photo of (a red cat:1.2)", "photo of (a blue cat:1.2)", "drawing of (a red cat:1.2)", "drawing of (a blue cat:1.2)"],
    "a cat // not a dog": ["a cat"],
    "a /* small */cat": ["a cat"],
    "// all of it": [],
    "see https://localhost/a//b": ["see https://localhost/a//b"],
    "\\{a\\|b\\}": ["{a|b}"],
    '{"scene": "a cat", "camera": {"lens": "85mm"}}': ['{"scene": "a cat", "camera": {"lens": "85mm"}}'],
    "a } cat {": ["a } cat {"],
    "a {red|blue cat": ["a {red|blue cat"],
    "x | y": ["x | y"],
    "a miku \\(vocaloid\\)": ["a miku \\(vocaloid\\)"],
    "{一只|两只}猫": ["一只猫", "两只猫"],
}  # fmt: skip


@pytest.mark.parametrize("line, found", READ.items())
def test_readings(line, found):
    assert readings(line, "text")[0] == found


@pytest.mark.parametrize("line", [line for line in READ if "//" not in line])
def test_they_are_those_that_the_page_draws(line):
    """The page's own reading of its nodes, written down from what it does; it also drops braces without a choice."""
    drawn = {" ".join(page(line, random.Random(seed)).split()) for seed in range(200)}
    found = {" ".join(text.split()) for text in readings(line, "text")[0]}
    if "|" in line and line.count("{") == line.count("}") and '"' not in line:
        assert drawn == found


def page(text: str, choose: random.Random) -> str:
    """One reading: at {, options up to the } of the same depth, one of them read in turn; \\ takes the next as it is."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "\\":
            out, at = out + text[at : at + 2], at + 2
        elif text[at] == "{":
            options, depth, at = [""], 0, at + 1
            while at < len(text) and not (text[at] == "}" and depth == 0):
                if text[at] == "\\":
                    options[-1], at = options[-1] + text[at : at + 2], at + 2
                    continue
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                if text[at] == "|" and depth == 0:
                    options.append("")
                else:
                    options[-1] += text[at]
                at += 1
            at, out = at + 1, out + page(choose.choice(options), choose)
        else:
            out, at = out + text[at], at + 1
    for each in "{}|":
        out = out.replace("\\" + each, each)
    return out


@pytest.mark.parametrize("line", ["{2$$red|blue}", "a {0.5::red|blue} cat", "{1-2$$, $$a|b|c}"])
def test_what_other_programs_understand_is_refused(line):
    with pytest.raises(ValueError, match=r"^text: .*another program's way"):
        readings(line, "text")


@pytest.mark.parametrize("line", ["a /* cat", "{" * 5_000 + "a|b" + "}" * 5_000, "{a|" * 5_000, "{a|b}" * 100_000])
def test_what_has_no_end_is_refused(line):
    with pytest.raises(ValueError, match=r"^text: ") as error:
        readings(line, "text")
    assert len(str(error.value)) < 400


def test_of_many_readings_some_are_drawn_and_always_the_same():
    line = " ".join("{a|b|c|d}" for _ in range(20))
    found, count = readings(line, "text")
    assert count == 4**20 and len(found) == len(set(found)) == MOST and found == readings(line, "text")[0]
    each = [sum(text.split()[place] == "a" for text in found) for place in range(20)]
    assert all(180 < number < 320 for number in each)
    assert len(readings("{a|b|c|d}" * 4 + "{a|b}", "text")[0]) == 512
    assert readings("{a|b}" * 200, "text")[1] == 2**200


def test_the_box_reads_comments_over_lines_and_says_how_many_it_drew():
    answer = PTPromptList().run("a {red|blue} cat // a colour\n/* two\nlines */\na dog\n" + "{a|b}" * 20)
    prompts = answer["result"][0].prompts
    assert [prompt.text for prompt in prompts[:3]] == ["a red cat", "a blue cat", "a dog"] and len(prompts) == 3 + MOST
    assert "1,003 prompts" in answer["ui"]["text"][0] and "1,048,576 ways; 1,000 are drawn" in answer["ui"]["text"][0]
    with pytest.raises(ValueError, match="^text: there is no prompt"):
        prompt_set(["// nothing"], "text")


def test_files_are_read_alike(tmp_path):
    for name, content in (("p.txt", "a {red|blue} cat\n// no\na dog\n"), ("p.csv", 'prompt\n"a {red|blue} cat"\n// no\na dog\n'),
                          ("p.jsonl", '{"prompt": "a {red|blue} cat", "tag": 1}\n{"prompt": "a dog"}\n')):  # fmt: skip
        (tmp_path / name).write_text(content)
        prompts, report = read_prompts(tmp_path / name, 100)
        assert [prompt.text for prompt in prompts.prompts] == [
            "a red cat",
            "a blue cat",
            "a dog",
        ] and report == "3 prompts found"
    assert [(prompt.spec or {}).get("tag") for prompt in prompts.prompts] == [1, 1, None]
    assert "first 2 of 3" in read_prompts(tmp_path / "p.txt", 2)[1]
    (tmp_path / "p.txt").write_text("a /* cat\n")
    with pytest.raises(ValueError, match="^file p.txt: "):
        read_prompts(tmp_path / "p.txt", 2)


def test_a_negative_prompt_has_one_reading():
    assert one_reading("bad, // worse\n/* and */ ugly ", "negative") == "bad, \n ugly"
    assert one_reading(" as it is\n", "negative") == " as it is\n" and one_reading("", "negative") == ""
    with pytest.raises(ValueError, match="^negative: it holds choices"):
        one_reading("{bad|ugly}", "negative")


def test_the_text_encoder_is_given_the_weights():
    class Clip:
        def __init__(self):
            self.read = []

        def tokenize(self, text):
            self.read.append(text)
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return []

    clip = Clip()
    encoded = encode_prompts(prompt_set(["a ({red|blue}:1.3) cat"], "text"), clip, "ugly")
    list(encoded.positive)
    assert {"a (red:1.3) cat", "a (blue:1.3) cat", "ugly"} == set(clip.read)


def test_comments_of_a_text():
    assert without_comments("a // b\nc /* d\ne */ f", "text") == "a \nc  f"

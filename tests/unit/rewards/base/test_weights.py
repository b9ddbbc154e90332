"""Weights are for the text encoder: every reward sees plain words, the same ones whichever way it is asked."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.reward import (
    Adopted,
    Prompt,
    RewardInfo,
    check_prompts,
    evaluate,
    groups_of,
    score,
    with_rules,
)
from posttrain.rewards.base.weights import as_written, in_plain_words, plain_words
from posttrain.rewards.composite.ensemble import Ensemble, Member
from posttrain.rewards.person.by_hand import HumanReward

# as people write them
WEIGHTED = {
    "(masterpiece:1.2), (best quality), 1girl, ((solo)), looking at viewer": "masterpiece, best quality, 1girl, solo, looking at viewer",
    "a (red:1.3) cat": "a red cat",
    "(a (very:0.8) red cat:1.25)": "a very red cat",
    "(((intricate details)))": "intricate details",
    "(photorealistic:1.4),(8k:.9), (raw photo: 1.1 ), (film grain:-0.5)": "photorealistic,8k, raw photo, film grain",
    "(a red cat, (blue:1.1) eyes:1)": "a red cat, blue eyes",
    "(dall-e 3:1.5) (v1.5:1.2)": "dall-e 3 v1.5",
    "hatsune miku \\(vocaloid\\), (twintails:1.1)": "hatsune miku (vocaloid), twintails",
    "(link \\(zelda\\):1.2)": "link (zelda)",
    "(embedding:cat_style:1.2) on a mat": "embedding:cat_style on a mat",
    "(一只猫:1.2)，(杰作)": "一只猫，杰作",
    "(two\nlines:1.2)": "two\nlines",
    '("OPEN":1.3) on a sign': '"OPEN" on a sign',
    'a 12" ruler, (wooden:1.2), 14" wide': 'a 12" ruler, wooden, 14" wide',
    "a cat :) (happy:1.2)": "a cat :) happy",
    "(half open, (red:1.2) cat": "(half open, red cat",
}
PLAIN = [
    "a clock at 12:30", "https://localhost:8080/a_b?c=1:2", "aspect ratio 16:9", "a photo of a cat, 85mm, f/1.8",
    "note: three cats", "[red:blue:0.5] cat", "<lora:style:0.8>", "a cat :(", ":)", "x) y", "{a|b}", "", " ", "a: 1.2",
    'a sign that says "SALE (50%) (now:1.2)"', "a poster with “(hello)” on it",
]  # fmt: skip


@pytest.mark.parametrize("written, plain", WEIGHTED.items())
def test_weights_are_taken_out(written, plain):
    assert plain_words(written) == plain


@pytest.mark.parametrize("text", PLAIN)
def test_whatever_is_no_weight_stays(text):
    assert plain_words(text) == text


@pytest.mark.parametrize("text, plain", [("(12:30)", "12:30"), ("see (http://x:8080)", "see http://x:8080"), ("(16:9)", "16:9"),
                                         ("at (10:30) (red:1.2)", "at 10:30 red")])  # fmt: skip
def test_times_ratios_and_ports_in_brackets_are_no_weights(text, plain):
    assert plain_words(text) == plain


def test_the_words_are_those_that_the_hosts_tokenizer_weighs():
    from comfy.sd1_clip import escape_important, token_weights, unescape_important

    for written, plain in WEIGHTED.items():
        if '"' not in written and "(half" not in written and ":)" not in written:
            parts = token_weights(escape_important(written), 1.0)
            assert "".join(unescape_important(text) for text, _ in parts) == plain


def test_hostile_brackets_take_no_time():
    assert plain_words("(" * 100_000) == "(" * 100_000
    assert plain_words("(" * 2_000 + "x" + ":1.2)" * 2_000) == "x"


class Listens:
    """A reward that remembers what it was asked."""

    def __init__(self):
        self.info = RewardInfo("listens", None, None, True, False, "")
        self.heard, self.checked = [], []

    def __call__(self, images, prompts):
        self.heard.append([prompt.text for prompt in prompts])
        return torch.zeros(len(images))

    def check_prompts(self, prompts):
        self.checked.append([prompt.text for prompt in prompts])


def test_every_way_to_ask_a_reward_gives_it_plain_words():
    prompts = [Prompt("a (red:1.3) cat"), Prompt("miku \\(vocaloid\\)", {"include": []})]
    images, groups, plain = torch.rand(2, 4, 4, 3), torch.tensor([0, 1]), ["a red cat", "miku (vocaloid)"]
    single, member = Listens(), Listens()
    ensemble = Ensemble((Member(member),))
    score(single, images, prompts, groups)
    evaluate(single, images, prompts, groups)
    score(Adopted(single, single.info), images, prompts, groups)
    score(ensemble, images, prompts, groups)
    check_prompts(single, prompts)
    check_prompts(ensemble, prompts)
    assert single.heard == [plain] * 3 and member.heard == [plain], "and no bracket was taken out twice"
    assert single.checked == [plain] and member.checked == [plain]
    assert in_plain_words(in_plain_words(prompts)) == in_plain_words(prompts)
    assert in_plain_words(prompts)[1].spec == {"include": []}


def test_what_was_written_stays_what_a_prompt_is_known_by():
    prompts = [Prompt("a (red:1.3) cat"), Prompt("a red cat"), Prompt("a (red:1.3) cat")]
    assert groups_of(in_plain_words(prompts)).tolist() == groups_of(prompts).tolist() == [0, 1, 0]
    assert [as_written(prompt) for prompt in in_plain_words(prompts)] == [prompt.text for prompt in prompts]
    known = [Prompt("a (red:1.3) cat", {"rule": 1})]
    assert [prompt.spec for prompt in with_rules([Prompt("a red cat"), *prompts], known)] == [{"rule": 1}] * 4
    asked = []
    human = HumanReward(lambda images, sheets: asked.extend(sheets) or {}, "thumbs")
    score(human, torch.rand(1, 4, 4, 3), prompts[:1], torch.tensor([0]))
    assert asked[0].prompt == "a (red:1.3) cat", "a vote is kept with the prompt that the image was made of"

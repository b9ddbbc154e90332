"""The judge's arithmetic by hand, and the judge in process on small random Qwen models."""
from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.prompt import Source
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned import qwen_vl
from posttrain.rewards.learned.qwen_vl import Vision, patches
from posttrain.rewards.vlm import judge as judging
from posttrain.rewards.vlm import local

from ..networks import picture
from ..qwen import qwen_folder


class Scripted:
    """Answers by a rule over the question: the arithmetic is under test, not a model."""

    differentiable = False

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def __call__(self, questions):
        self.asked += questions
        return [self.rule(q) for q in questions]


IMAGES = torch.stack([torch.full((4, 4, 3), v) for v in (0.2, 0.4, 0.8)])


def brightness_is_yes(q):
    level = q.images[0].mean().item()
    return {"yes": level * 0.5, "no": (1 - level) * 0.5}


def test_yes_no_and_vqa():
    prompts = [Prompt("a cat")] * 3
    model = Scripted(brightness_is_yes)
    assert torch.allclose(judging.JudgeReward(model)(IMAGES, prompts), torch.tensor([0.2, 0.4, 0.8]))
    assert torch.allclose(judging.JudgeReward(model, judging.VQA)(IMAGES, prompts), torch.tensor([0.1, 0.2, 0.4]))
    assert '"a cat"' in model.asked[0].text and model.asked[0].answers == ("yes", "no")


def edited(words: str = "make it light") -> Prompt:
    return Prompt(words, source=Source("before", "before", lambda: torch.zeros(6, 8, 3)))


@pytest.mark.parametrize("kind", [judging.YES_NO, judging.VQA, judging.RATING])
def test_the_picture_before_is_shown_first(kind):
    model = Scripted(lambda q: dict.fromkeys(q.answers, 0.1))
    judging.JudgeReward(model, kind)(IMAGES[:2], [edited(), Prompt("a cat")])
    with_picture, without = model.asked
    assert [tuple(image.shape) for image in with_picture.images] == [(1, 6, 8, 3), (1, 4, 4, 3)] and len(without.images) == 1
    assert '"make it light"' in with_picture.text and "first" in with_picture.text and "first" not in without.text
    judging.JudgeReward(own := Scripted(lambda q: dict.fromkeys(q.answers, 0.1)), kind, "Well? {prompt}")(IMAGES[:1], [edited()])
    assert own.asked[0].text == "Well? make it light" and len(own.asked[0].images) == 2


def test_of_two_edits_the_better_one_wins_in_both_orders():
    model = Scripted(lambda q: {"1": q.images[1].mean().item(), "2": q.images[2].mean().item()})
    values = score(judging.PairJudgeReward(model), IMAGES[::2], [edited()] * 2, [0, 0]).values
    assert values.tolist() == pytest.approx([0.2, 0.8]) and all(q.images[0].sum() == 0 for q in model.asked)
    assert "1 for the second image, 2 for the third" in model.asked[0].text


def test_an_evasive_or_failed_answer_is_a_failure():
    silent = judging.JudgeReward(Scripted(lambda q: {"yes": 0.0, "no": 0.0}))
    assert silent(IMAGES, [Prompt("x")] * 3).isnan().all()
    failed = judging.JudgeReward(Scripted(lambda q: None if q.images[0].mean() > 0.5 else {"yes": 1.0, "no": 0.0}))
    assert failed(IMAGES, [Prompt("x")] * 3).isnan().tolist() == [False, False, True]


def test_expected_rating():
    model = Scripted(lambda q: {"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.0, "5": 0.1})
    assert judging.JudgeReward(model, judging.RATING)(IMAGES[:1], [Prompt("x")]).item() == pytest.approx((0.1 + 0.6 + 0.5) / 0.4)


def test_soft_tifa():
    spec = {"vqa_list": [["How many cats?", "2"], ["What colour?", "Red"]]}
    table = {"How many cats? Answer in one word.": {"2": 0.3, "two": 0.2}, "What colour? Answer in one word.": {"red": 0.8}}
    model = Scripted(lambda q: {a: table[q.text].get(a, 0.0) for a in q.answers})
    prompts = [Prompt("two red cats", spec), Prompt("no questions")]
    mean = judging.JudgeReward(model, judging.QUESTIONS)(IMAGES[:2], prompts)
    assert mean[0].item() == pytest.approx(0.65) and mean[1].isnan()
    geometric = judging.JudgeReward(model, judging.QUESTIONS, average="geometric mean")(IMAGES[:1], prompts[:1])
    assert geometric.item() == pytest.approx(math.sqrt(0.5 * 0.8))
    with pytest.raises(ValueError, match="No prompt has questions"):
        judging.JudgeReward(model, judging.QUESTIONS)(IMAGES[:1], [Prompt("x")])


def test_pairs_in_both_orders_cancel_a_judge_that_prefers_a_position():
    def biased(q):  # prefers the first image, a little more if it is brighter
        gap = (q.images[0] - q.images[1]).mean().item()
        return {"1": 0.7 + 0.2 * gap, "2": 0.3 - 0.2 * gap}

    reward = judging.PairJudgeReward(Scripted(biased))
    same = judging.PairJudgeReward(Scripted(lambda q: {"1": 0.9, "2": 0.1}))
    groups, prompts = torch.tensor([0, 0, 0]), [Prompt("x")] * 3
    values = reward.evaluate(IMAGES, prompts, groups).values
    assert values[0] < values[1] < values[2] and values.mean().item() == pytest.approx(0.5)
    assert same.evaluate(IMAGES, prompts, groups).values.tolist() == pytest.approx([0.5] * 3)


def test_pairs_stay_inside_their_prompt_and_failures_are_left_out():
    model = Scripted(lambda q: None if q.images[0].mean() < 0.3 else {"1": 1.0, "2": 0.0})
    scores = score(judging.PairJudgeReward(model), IMAGES[[0, 1, 1, 2]], [Prompt("a")] * 2 + [Prompt("b")] * 2, [0, 0, 1, 1])
    assert len(model.asked) == 4 and scores.values.isnan().tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="at least two images of a prompt"):
        judging.PairJudgeReward(model)(IMAGES[:1], [Prompt("a")])


@pytest.mark.parametrize("opponents, count", [(0, 15), (2, 6), (3, 12), (9, 15)])
def test_number_of_duels(opponents, count):
    found = judging.duels([5, 6, 7, 8, 9, 10], opponents)
    assert len(found) == len(set(found)) == count and all(a != b for a, b in found)
    meetings = [sum(i in d for d in found) for i in range(5, 11)]
    assert len(set(meetings)) == 1  # everybody meets equally many


def test_settings():
    assert judging.spellings("Three") == ("three", "3") and judging.spellings("4") == ("4", "four") and judging.spellings("Red ") == ("red",)
    for wrong, message in (({"kind": "essay"}, "kind"), ({"average": "median"}, "average"),
                           ({"kind": judging.QUESTIONS, "text": "what?"}, r"must contain \{question\}")):
        with pytest.raises(ValueError, match=message):
            judging.JudgeReward(Scripted(None), **wrong)
    assert not judging.JudgeReward(Scripted(None), text="Is it sharp?").info.needs_prompt


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def judge(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm") / request.param
    network = qwen_folder(folder, request.param)
    area = (network.config.vision_config.patch_size * 8) ** 2
    return folder, network, local.LocalModel(holders.Holder(lambda: local.build_judge(folder), "fp32"), folder, area)


def test_local_judge_reads_the_probabilities_of_the_next_word(judge):
    folder, network, model = judge
    side, text = network.config.vision_config.patch_size * 8, "a red cat ?"
    newer = network.config.model_type == "qwen3_vl"  # no system turn, other patches, images from -1 to 1
    image = picture(side, side)
    found, = model([judging.Question((image,), text, ("yes", "no"))])
    tokenizer = qwen_vl.load_tokenizer(folder)
    pad = network.config.image_token_id
    system = "" if newer else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    ids = tokenizer(system + "<|im_start|>user\n<|vision_start|>")["input_ids"] + [pad] * 16 + tokenizer(
        "<|vision_end|>a red cat ?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    ids = torch.tensor([ids])
    mean, std = ((0.5,) * 3,) * 2 if newer else (qwen_vl.CLIP_MEAN, qwen_vl.CLIP_STD)
    pixels, grid = patches(image, Vision(side // 8, 2, mean, std), side * side)
    with torch.no_grad():
        p = network(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, image_grid_thw=grid,
                    mm_token_type_ids=(ids == pad).int()).logits[0, -1].softmax(-1)
    for word in ("yes", "no"):
        expected = sum(p[tokenizer.convert_tokens_to_ids(w)] for w in (word, word.capitalize()))
        assert torch.allclose(found[word], expected, atol=1e-5)


def test_local_judge_gives_gradients_and_takes_two_images(judge):
    reward = judging.JudgeReward(judge[2])
    x = picture(112, 112).requires_grad_()
    reward(x, [Prompt("a cat")]).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0 and reward.info.differentiable
    values = judging.PairJudgeReward(judge[2])(torch.cat([picture(112, 112, i) for i in range(2)]), [Prompt("a cat")] * 2)
    assert values.sum().item() == pytest.approx(1, abs=1e-5) and not values.isnan().any()


def test_wrong_tokenizer_is_refused(judge, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
                            ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not know .*image_pad"):
        qwen_vl.load_tokenizer(tmp_path)

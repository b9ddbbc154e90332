"""A vision-language model as judge: yes/no, VQAScore (arXiv:2404.01291), a rating, questions of the prompt (Soft-TIFA),
and pairs in both orders. What is read is the probability of the answer's first word, not a sampled text.

Range 0..1 (the rating 1..5). A question that got no usable answer makes its image NaN, never 0. The judge itself is a
Model below: in process (vlm_local.py) or behind an OpenAI-compatible server (vlm_server.py). Licence: the model's.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..base.reward import Judgement, Prompt, RewardInfo, groups_of, networks_of
from ..base.words import brief

Probabilities = Mapping[str, float] | None  # of each allowed answer, absolute; None = the question failed


@dataclass(frozen=True)
class Question:
    """images: [1,H,W,3] each, usually one; sizes may differ. answers: the words whose probability is asked for, in lower case."""

    images: tuple[Tensor, ...]
    text: str
    answers: tuple[str, ...]
    __repr__ = brief


class Model(Protocol):
    """Answers all questions; raises RewardUnavailable where it cannot answer any."""

    differentiable: bool

    def __call__(self, questions: Sequence[Question]) -> list[Probabilities]: ...


YES_NO, VQA, RATING, QUESTIONS = "yes or no", "VQAScore", "rating 1 to 5", "questions of the prompt (Soft-TIFA)"
KINDS = (YES_NO, VQA, RATING, QUESTIONS)
DEFAULT_TEXT = {
    YES_NO: 'Does this image show exactly "{prompt}"? Answer Yes or No.',
    VQA: 'Does this image show "{prompt}"? Answer Yes or No.',
    RATING: 'How good is this image as a picture of "{prompt}"? Answer with one number from 1 (bad) to 5 (excellent).',
    QUESTIONS: "{question} Answer in one word.",
}
# of a prompt with a picture, which is shown first
EDIT_TEXT = {
    YES_NO: 'The second image was made from the first by the instruction "{prompt}". Was exactly that done, and all else left '
            "as it was? Answer Yes or No.",
    VQA: 'Does the second image show the first one changed as told: "{prompt}"? Answer Yes or No.',
    RATING: 'The second image was made from the first by the instruction "{prompt}". How well was that done, and all else '
            "left as it was? Answer with one number from 1 (bad) to 5 (excellent).",
}
AVERAGES = ("mean", "geometric mean")
PAIR_TEXT = 'Which image is the better picture of "{prompt}", the first or the second? Answer 1 or 2.'
EDIT_PAIR_TEXT = ('The first image was changed twice by the instruction "{prompt}": the second and the third image are the '
                  "results. Which is the better one? Answer 1 for the second image, 2 for the third.")
RATINGS = ("1", "2", "3", "4", "5")
NUMBERS = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight",
           "9": "nine", "10": "ten"}
LEAST = 1e-6  # below this total probability the model has not answered the question at all


class JudgeReward:
    """kind: one of KINDS. text: the question; {prompt} stands for the prompt ({question} for QUESTIONS), "" = default.
    The picture that a prompt carries is shown first, but for QUESTIONS, which are about the result alone.
    average: how QUESTIONS are put together; with the geometric mean one wrong answer spoils the image."""

    def __init__(self, model: Model, kind: str = YES_NO, text: str = "", average: str = AVERAGES[0]):
        for name, value, known in (("kind", kind, KINDS), ("average", average, AVERAGES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got '{value}'.")
        self._model, self._kind, self._average = model, kind, average
        self._own, self._text = bool(text.strip()), text.strip() or DEFAULT_TEXT[kind]
        if kind == QUESTIONS and "{question}" not in self._text:
            raise ValueError("question: it must contain {question}, where each question of the prompt goes.")
        low, high = (1.0, 5.0) if kind == RATING else (0.0, 1.0)
        self.info = RewardInfo(f"VLM {kind}", low, high, "{prompt}" in self._text or kind == QUESTIONS,
                               model.differentiable, "A vision-language model looks at the image and answers.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        asked = [self._questions(image[None], prompt) for image, prompt in zip(images, prompts)]
        if not any(asked):
            raise ValueError('No prompt has questions: Soft-TIFA needs "vqa_list": [[question, answer], ...] in the '
                             "record of the prompt.")
        answers = iter(self._model([q for questions in asked for q in questions]))
        values = [self._value(questions, [next(answers) for _ in questions]) for questions in asked]
        return torch.stack([torch.as_tensor(v, dtype=torch.float32).cpu() for v in values])

    def networks(self) -> list:
        return networks_of(self._model)

    def _questions(self, image: Tensor, prompt: Prompt) -> list[Question]:
        if self._kind == QUESTIONS:
            listed = (prompt.spec or {}).get("vqa_list", ())
            return [Question((image,), self._text.replace("{question}", q), spellings(a)) for q, a in listed]
        answers = RATINGS if self._kind == RATING else ("yes", "no")
        text = EDIT_TEXT[self._kind] if prompt.source is not None and not self._own else self._text
        return [Question((*before(prompt), image), text.replace("{prompt}", prompt.text), answers)]

    def _value(self, questions: Sequence[Question], answers: Sequence[Probabilities]):
        if not questions or any(a is None for a in answers):
            return math.nan
        if self._kind == QUESTIONS:
            return average([sum(a.values()) for a in answers], self._average)
        rule = {YES_NO: yes_share, VQA: lambda a: a["yes"], RATING: expected_rating}[self._kind]
        return rule(answers[0])


class PairJudgeReward:
    """Share of its group mates that an image beats, by the judge's word on each pair, asked in both orders because
    judges favour a position. K images of a prompt take K*(K-1) questions; `opponents` limits them (0 = all)."""

    def __init__(self, model: Model, text: str = "", opponents: int = 0):
        self._model, self._text, self._opponents, self.compares = model, text.strip() or PAIR_TEXT, opponents, True
        self._edit_text = text.strip() or EDIT_PAIR_TEXT
        self.info = RewardInfo("VLM win rate", 0.0, 1.0, "{prompt}" in self._text, False,
                               "A vision-language model compares the images of a prompt pair by pair.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.evaluate(images, prompts, groups_of(prompts)).values

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
        pairs = [p for g in groups.unique() for p in duels(torch.nonzero(groups == g)[:, 0].tolist(), self._opponents)]
        if not pairs:
            raise ValueError("The pair judge needs at least two images of a prompt: raise the images per prompt.")
        ordered = [order for a, b in pairs for order in ((a, b), (b, a))]
        texts = [self._text if each.source is None else self._edit_text for each in prompts]
        answers = self._model([Question((*before(prompts[a]), images[a:a + 1], images[b:b + 1]),
                                        texts[a].replace("{prompt}", prompts[a].text), ("1", "2")) for a, b in ordered])
        wins, counts = torch.zeros(len(images), dtype=torch.float64), torch.zeros(len(images), dtype=torch.float64)
        for (a, b), forward, backward in zip(pairs, answers[::2], answers[1::2]):
            if forward is None or backward is None:
                continue
            better = (first_share(forward) + 1 - first_share(backward)) / 2
            for image, share in ((a, better), (b, 1 - better)):
                if not math.isnan(share):
                    wins[image] += share
                    counts[image] += 1
        values = torch.where(counts > 0, wins / counts.clamp_min(1), torch.nan)
        return Judgement(values, {self.info.name: values})


def before(prompt: Prompt) -> tuple[Tensor, ...]:
    """The picture that a prompt carries, to be seen before its results; () for most."""
    return () if prompt.source is None else (prompt.source.read()[None],)


def duels(members: Sequence[int], opponents: int) -> list[tuple[int, int]]:
    """Who meets whom: everybody, or each the next `opponents` in the circle."""
    count = len(members)
    if not 0 < opponents < count - 1:
        return [(a, b) for i, a in enumerate(members) for b in members[i + 1:]]
    circle = {tuple(sorted((members[i], members[(i + step) % count]))) for i in range(count)
              for step in range(1, opponents // 2 + 1 + opponents % 2)}
    return sorted(circle)


def yes_share(answer: Mapping[str, float]):
    """P(yes) / (P(yes) + P(no)); NaN where the model says neither."""
    total = answer["yes"] + answer["no"]
    return answer["yes"] / total if total > LEAST else math.nan


def first_share(answer: Mapping[str, float]) -> float:
    total = answer["1"] + answer["2"]
    return answer["1"] / total if total > LEAST else math.nan


def expected_rating(answer: Mapping[str, float]):
    """sum k P(k) / sum P(k) over the digits: smoother than the most likely digit."""
    total = sum(answer[k] for k in RATINGS)
    return sum(int(k) * answer[k] for k in RATINGS) / total if total > LEAST else math.nan


def average(values: Sequence[float], rule: str):
    if rule == "mean":
        return sum(values) / len(values)
    return math.prod(max(v, 0.0) for v in values) ** (1 / len(values))


def spellings(answer: str) -> tuple[str, ...]:
    """The expected answer as it may be written: a number as a digit or a word."""
    word = answer.strip().lower()
    digits = {name: digit for digit, name in NUMBERS.items()}
    other = NUMBERS.get(word) or digits.get(word)
    return (word, other) if other else (word,)

"""Prompts: written in a box, read from a file, encoded by the user's text encoder when their turn comes."""
from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..rewards.base.reward import Prompt
from ..rewards.base.words import lines_of
from ..trainers.prompts import PromptSet, Texts
from .access import located, state_of
from .sockets import MENU, PROMPTS

CATEGORY = f"{MENU}/1 Prompts"
AT_ONCE = 1_000  # prompts that are encoded before the run; of more, those whose turn comes


class PTPromptList:
    DESCRIPTION = "Your own prompts, one on each line. Training takes some of them in each iteration."
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("The prompts; connect them to Encode Prompts.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {
            "multiline": True, "default": "a photo of a cat\na photo of a dog",
            "tooltip": "One prompt on each line. Empty lines are left out. A few dozen different prompts generalise "
                       "better than a handful. {red|blue} is a choice: each reading of a line is a prompt of its own. "
                       "// and /* */ are comments. Weights, (red:1.2), are for the text encoder; rewards see plain words."})}}

    def run(self, text):
        from ..trainers.data.wildcards import without_comments

        notes: list[str] = []
        prompts = prompt_set(lines_of(without_comments(text, "text")), "text", notes)
        return {"ui": {"text": ["\n".join([f"{len(prompts):,} prompts found", *notes])]}, "result": (prompts,)}


class PTPromptFile:
    DESCRIPTION = ("Prompts from a text file in ComfyUI's input folder (or a folder that you have opened), one on each "
                   "line. A .jsonl file in the form of GenEval is read with its records, which rule rewards check. Tables "
                   "(.csv, .tsv) need a column called prompt. Choices {a|b} and comments are read as in Prompt List.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("The prompts; connect them to Encode Prompts.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "file": ("STRING", {"default": "prompts.txt", "tooltip": "A file name in ComfyUI's input folder, or a full "
                                  "path into a folder that you have opened (docs/security.md). UTF-8 text."}),
            "limit": ("INT", {"default": 100_000, "min": 1, "max": 1_000_000,
                              "tooltip": "Read at most this many prompts, from the top. Their encodings lie on the disk, not in "
                                         "memory."})}}

    @classmethod
    def IS_CHANGED(cls, file, limit):
        return f"{state_of(file)}:{limit}"

    def run(self, file, limit):
        from ..trainers.data.prompt_files import read_prompts
        prompts, report = read_prompts(located(file), limit)
        return {"ui": {"text": [report]}, "result": (prompts,)}


class PTEncodePrompts:
    DESCRIPTION = ("Encodes the prompts with your text encoder: up to 1,000 at once, after which it can leave the memory, and "
                   "of more those whose turn comes, 256 together. Encodings lie on the disk. Use it outside the loop.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("The prompts with their encodings, for Rollout and Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "prompts": (PROMPTS, {"tooltip": "From Prompt List, Prompt File or Demo World."}),
            "clip": ("CLIP", {"tooltip": "The text encoder of the model that you train."}),
            "negative": ("STRING", {"multiline": True, "default": "",
                                    "tooltip": "The negative prompt. Used only where the guidance scale is not 1."})},
            "optional": {"distilled_guidance": ("FLOAT", {
                "default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1,
                "tooltip": "Only for models with guidance built in, such as Flux dev (3.5 is usual). 0 leaves it "
                           "out."})}}

    def run(self, prompts, clip, negative, distilled_guidance=0.0):
        return (encode_prompts(prompts, clip, one_reading(negative, "negative"), distilled_guidance),)


def prompt_set(lines, name: str, notes: list[str] | None = None) -> PromptSet:
    """Each reading of each line. notes: takes what a user should know of it."""
    from ..trainers.data.wildcards import every_reading

    prompts = tuple(every_reading((Prompt(line.strip()) for line in lines), name, [] if notes is None else notes))
    if not prompts:
        raise ValueError(f"{name}: there is no prompt in it; write at least one line")
    return PromptSet(prompts)


def one_reading(text: str, name: str) -> str:
    """A text without its comments. ValueError where it has choices, of which there is one text only."""
    from ..trainers.data.wildcards import readings, without_comments

    found, count = readings(without_comments(text, name), name)
    if count > 1:
        raise ValueError(f"{name}: it holds choices ({{a|b}}), which are read in prompts only; write one text, or \\{{ for a "
                         "brace")
    return text if found == [text.strip()] else "".join(found)


def encode_prompts(prompts: PromptSet, clip, negative: str, guidance: float = 0.0) -> PromptSet:
    """The same prompts with a CONDITIONING each: one text encoder call per different prompt, for few at once, for more than
    AT_ONCE when their turn comes."""
    from ..trainers.policy.encodings import Encodings

    if prompts.carries_pictures:
        raise ValueError("prompts: they carry pictures, which this node would leave out; encode them with Encode Edits")
    encode = partial(encoding, clip, guidance)
    positive = Encodings([prompt.text for prompt in prompts.prompts], encode)
    encoded = replace(prompts, positive=positive, negative=encode(negative), texts=Texts(negative, guidance))
    if len(prompts) <= AT_ONCE:
        encode_now(positive)
    return encoded


def encode_now(*encodings) -> None:
    """All of them, with a progress bar."""
    import comfy.utils

    bar = comfy.utils.ProgressBar(sum(map(len, encodings)))
    for each in encodings:
        each.make(range(len(each)), lambda: bar.update(1))


@torch.inference_mode()  # as the host runs a node: what it loads is made so
def encoding(clip, guidance: float, text: str) -> list:
    """The CONDITIONING of a text, in RAM."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()
    return finished(clip.encode_from_tokens_scheduled(clip.tokenize(text)), guidance)


def finished(conditioning: list, guidance: float) -> list:
    """A CONDITIONING in RAM, told the guidance of models that have it built in."""
    import node_helpers

    if guidance:
        conditioning = node_helpers.conditioning_set_values(conditioning, {"guidance": guidance})
    return _to_ram(conditioning)


def _to_ram(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(_to_ram, value))
    if isinstance(value, dict):
        return {key: _to_ram(each) for key, each in value.items()}
    return value.cpu().contiguous() if isinstance(value, torch.Tensor) else value


NODES = {"PTPromptList": PTPromptList, "PTPromptFile": PTPromptFile, "PTEncodePrompts": PTEncodePrompts}
NAMES = {"PTPromptList": "Prompt List", "PTPromptFile": "Prompts from File", "PTEncodePrompts": "Encode Prompts"}

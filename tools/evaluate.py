"""Held-out prompts before and after training, in ComfyUI's own nodes.

The exported LoRA goes through the stock LoraLoaderModelOnly, the images through the stock KSampler and VAEDecode; of
the pack only the demo world (models, prompts, verifier) and Score Images take part.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from . import pack
from .host import Host
from .training import finished

STEPS, SAMPLER, SCHEDULER, GUIDANCE, SIZE = 15, "euler", "simple", 1.0, 192  # 192 / 8 = 24 pixels
SCORES = {"strict": "strict (all or nothing)", "dense": "dense (partial credit)"}
SKILLS = {"number": "number (how many balls)", "colours": "colours (which ones)"}
RIGHT = 0.9995  # a score that is 1 in a table of few digits
SHOWN = 4  # images of each prompt kept for the picture


@dataclass(frozen=True)
class Drawing:
    """How the stock sampler draws, before and after alike. guidance: KSampler's cfg."""

    steps: int = STEPS
    guidance: float = GUIDANCE


@dataclass(frozen=True)
class Few:
    """A model that was made faster: what it is compared with. teacher: the LoRA that lies under its own; steps, sampler:
    how both are sampled before and after. Beside that, base and teacher are measured at the usual STEPS."""

    teacher: str
    steps: int
    sampler: str = SAMPLER


@dataclass(frozen=True)
class Merged:
    """A LoRA that was made of others. teachers: skill -> the LoRA that was trained for it alone; words: the prompts that hold
    one are of the first skill, the others of the second."""

    teachers: dict[str, str]
    words: tuple[str, ...]

    def skill_of(self, prompt: str) -> str:
        first, second = self.teachers
        return first if set(self.words) & set(prompt.split()) else second


@dataclass(frozen=True)
class Group:
    """The images of one held-out prompt; all have the same seeds, so they are pairs."""

    prompt: str
    # ("before" | "after", with Few also "base" | "teacher", and "strict" | "dense" | "own") -> one per image
    scores: dict[tuple[str, str], list[float]]
    pictures: dict[str, list[Path]]  # "before" | "after" ... -> the first images


@dataclass(frozen=True)
class Evaluation:
    groups: list[Group]
    merged: Merged | None = None

    def values(self, when: str, score: str) -> list[float]:
        return [value for group in self.groups for value in group.scores[when, score]]

    def rate(self, when: str, score: str = "strict") -> tuple[float, float]:
        """(mean, standard error)."""
        return mean_and_error(self.values(when, score))

    def diversity(self, when: str) -> float:
        """How unlike the images of one prompt are: mean root-mean-square distance of their pixels, 0..1."""
        return sum(spread([pixels(file) for file in group.pictures[when]]) for group in self.groups) / len(self.groups)

    def gain(self, score: str = "strict") -> tuple[float, float]:
        """(mean, standard error) of after - before over the pairs."""
        pairs = zip(self.values("before", score), self.values("after", score))
        return mean_and_error([after - before for before, after in pairs])

    def kept(self, score: str = "strict") -> float:
        """With Few: the share of the teacher's gain over the base, both at the usual steps, that the student shows."""
        base, teacher, student = (self.rate(when, score)[0] for when in ("base", "teacher", "after"))
        return (student - base) / (teacher - base)

    def skills(self) -> dict[str, tuple[float, float, float]]:
        """With Merged: skill -> the shares of images that are right in it, of the base, the skill's own LoRA and the merged one,
        on the prompts of the skill."""
        found = {}
        for skill in self.merged.teachers if self.merged else ():
            groups = [group for group in self.groups if self.merged.skill_of(group.prompt) == skill]
            found[skill] = tuple(
                mean_and_error([float(score >= RIGHT) for group in groups for score in group.scores[when, skill]])[0]
                for when in ("before", f"teacher of {skill}", "after"))
        return found


def mean_and_error(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def evaluate(host: Host, lora: str, which_model: str, images: int = 306, seed: int = 10_000,
             own: dict | None = None, few: Few | None = None, merged: Merged | None = None,
             drawing: Drawing = Drawing()) -> Evaluation:
    """At least ``images`` images of the held-out prompts without and with the LoRA, from the same noise.

    lora: its name as LoraLoader lists it. which_model: an option of the demo world node. own: a reward node that was
    trained on in place of the verifier; its score is measured too, under the name "own". few: the LoRA is a student's;
    merged: it was made of others.
    """
    prompts = held_out_prompts()
    each = math.ceil(images / len(prompts))
    graph = workflow(prompts, lora, which_model, each, seed, own, few, merged, drawing)
    result = finished(host, graph, "evaluation", timeout=1800)
    return Evaluation([read(result.outputs, number, prompt, host.base) for number, prompt in enumerate(prompts)], merged)


def held_out_prompts() -> list[str]:
    return [prompt.text for prompt in pack.module("toy.prompts").prompt_set(held_out=True).prompts]


def workflow(prompts: list[str], lora: str, which_model: str, each: int, seed: int, own: dict | None,
             few: Few | None = None, merged: Merged | None = None, drawing: Drawing = Drawing()) -> dict:
    """The evaluation as a workflow in API format."""
    usual = dict(steps=drawing.steps, guidance=drawing.guidance)
    shots = {"before": ("world", usual), "after": ("lora", usual)}  # model and sampling of each
    if few:
        quick = dict(steps=few.steps, sampler_name=few.sampler)
        shots = {"base": ("world", usual), "teacher": ("teacher", usual), "before": ("teacher", quick), "after": ("lora", quick)}
    graph = {
        "world": node("PTDemoWorld", which_model=which_model, score=SCORES["strict"]),
        "partial": node("PTDemoWorld", which_model=which_model, score=SCORES["dense"]),
        "lora": node("LoraLoaderModelOnly", model=["teacher" if few else "world", 0], lora_name=lora, strength_model=1.0),
        "empty": node("CLIPTextEncode", clip=["world", 1], text=""),
        "latent": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=each),
    }
    if few:
        graph["teacher"] = node("LoraLoaderModelOnly", model=["world", 0], lora_name=few.teacher, strength_model=1.0)
    rewards = {"strict": ["world", 5], "dense": ["partial", 5]}
    for skill, teacher in merged.teachers.items() if merged else ():
        graph[f"teacher of {skill}"] = node("LoraLoaderModelOnly", model=["world", 0], lora_name=teacher, strength_model=1.0)
        graph[skill] = node("PTDemoWorld", which_model=which_model, score=SKILLS[skill])
        shots[f"teacher of {skill}"], rewards[skill] = (f"teacher of {skill}", usual), [skill, 5]
    if own:
        graph["own"], rewards["own"] = own, ["own", 0]
    for number, prompt in enumerate(prompts):
        graph[f"text-{number}"] = node("CLIPTextEncode", clip=["world", 1], text=prompt)
        for when, (model, sampling) in shots.items():
            name = f"{when}-{number}"
            graph[f"sample-{name}"] = sampled(model, f"text-{number}", seed + number, **sampling)
            graph[f"image-{name}"] = node("VAEDecode", samples=[f"sample-{name}", 0], vae=["world", 2])
            graph[f"few-{name}"] = node("ImageFromBatch", image=[f"image-{name}", 0], batch_index=0, length=SHOWN)
            graph[f"show-{name}"] = node("PreviewImage", images=[f"few-{name}", 0])
            for score, reward in rewards.items():
                graph[f"{score}-{name}"] = node(
                    "PTScoreImages", images=[f"image-{name}", 0], reward=reward, prompt=prompt,
                    prompt_mode="one prompt for all images", prompts=["world", 4])
    return graph


def sampled(model: str, text: str, seed: int, steps: int = STEPS, sampler_name: str = SAMPLER,
            negative: tuple[str, int] = ("empty", 0), guidance: float = GUIDANCE) -> dict:
    """The stock sampler, from the node "latent"."""
    return node("KSampler", model=[model, 0], positive=[text, 0], negative=list(negative), latent_image=["latent", 0], denoise=1.0,
                seed=seed, steps=steps, sampler_name=sampler_name, cfg=guidance, scheduler=SCHEDULER)


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def read(outputs: dict[str, dict], number: int, prompt: str, base: Path) -> Group:
    """One prompt's scores and pictures out of the finished workflow."""
    end = f"-{number}"
    shown = {name.removeprefix("show-").removesuffix(end): output["images"] for name, output in outputs.items()
             if name.startswith("show-") and name.endswith(end)}
    scores = {(when, score): column(outputs[f"{score}-{when}{end}"]["text"][1])
              for when in shown for score in (*SCORES, "own", *SKILLS) if f"{score}-{when}{end}" in outputs}
    pictures = {when: [base / image["type"] / image["subfolder"] / image["filename"] for image in images]
                for when, images in shown.items()}
    return Group(prompt, scores, pictures)


def column(table: str) -> list[float]:
    """The scores out of the table that Score Images shows."""
    head, *lines = [line.split("\t") for line in table.splitlines()]
    place = head.index("score")
    return [float(line[place]) for line in lines]


def pixels(file: Path):
    """[H, W, 3] in 0..1."""
    import numpy
    from PIL import Image

    with Image.open(file) as image:
        return numpy.asarray(image.convert("RGB"), dtype=numpy.float64) / 255


def spread(images: list) -> float:
    """Mean root-mean-square distance over all pairs of images."""
    pairs = list(combinations(images, 2))
    return sum(float(((one - other) ** 2).mean()) ** 0.5 for one, other in pairs) / len(pairs)


def picture(evaluation: Evaluation, path: Path, rows: int = 9, zoom: int = 3) -> None:
    """Writes a PNG: a row for each of ``rows`` prompts, its first images before and after, framed in green where the
    verifier accepts the image."""
    from PIL import Image, ImageDraw, ImageFont

    groups = evaluation.groups[:: max(1, len(evaluation.groups) // rows)][:rows]
    cell, left, top, gap = SIZE // 8 * zoom + 8, 300, 40, 24
    sheet = Image.new("RGB", (left + 2 * SHOWN * cell + gap + 12, top + len(groups) * cell + 12), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for when, x in (("before", left), ("after", left + SHOWN * cell + gap)):
        rate, error = evaluation.rate(when)
        draw.text((x, 10), f"{when}: {rate:.0%} ± {error:.0%} right", "black", font)
        for row, group in enumerate(groups):
            y = top + row * cell
            draw.text((12, y + cell / 2 - 12), group.prompt, "black", font)
            for place, (file, passed) in enumerate(zip(group.pictures[when], group.scores[when, "strict"])):
                box = (x + place * cell, y, x + (place + 1) * cell - 4, y + cell - 4)
                draw.rectangle(box, outline="#2a9d4a" if passed else "#c8c8c8", width=3 if passed else 1)
                with Image.open(file) as image:
                    shown = image.convert("RGB").resize((cell - 12, cell - 12), Image.Resampling.NEAREST)
                sheet.paste(shown, (box[0] + 4, y + 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)

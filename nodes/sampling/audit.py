"""Audit: what has become of a model's pictures, beside those of the model that it was made from."""

from __future__ import annotations

from ..progress import node_progress
from ..sockets import DISTANCE, MENU, PROMPTS, REWARD, SAMPLING

WORDS = "vibrant, dramatic lighting, masterpiece"
ROWS = 6  # prompts in the picture


class PTAudit:
    DESCRIPTION = (
        "Compares two models on the same prompts and noise, such as your model with a LoRA and without it: colour, light, "
        "detail, composition, diversity, words that are overdone, and, with a reward, how true to their prompts the pictures "
        "are. Gives a verdict in words and a picture."
    )
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/8 Export", "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING", "IMAGE", "BOOLEAN"), ("report", "picture", "good")
    OUTPUT_TOOLTIPS = (
        "The verdict, then every number that was measured.",
        "A row for each prompt: the first model, the second, and the same with the words.",
        "Whether no sign was found that the second model's pictures have been spoilt.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "first": ("MODEL", {"tooltip": "The model that is compared with, such as your model without the LoRA."}),
                "second": ("MODEL", {"tooltip": "The model in question: with the LoRA, or from Policy to Model."}),
                "prompts": (PROMPTS, {"tooltip": "Encoded prompts, 8 or more, best ones that were not trained on."}),
                "vae": ("VAE", {"tooltip": "The models' VAE."}),
                "sampling": (
                    SAMPLING,
                    {"tooltip": "Size, steps, guidance, images per prompt; sampled without random steps here."},
                ),
                "words": (
                    "STRING",
                    {
                        "default": WORDS,
                        "tooltip": "With commas between them. Each is put before every prompt, to see which model overdoes it, "
                        "and costs as many pictures as the prompts alone. Empty: none.",
                    },
                ),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "The models' text encoder, for the words. Without it they are left out."}),
                "reward": (REWARD, {"tooltip": "One that reads prompts, such as CLIPScore: do the pictures still show them?"}),
                "distance": (DISTANCE, {"tooltip": "From Picture Distance: also FID, KID and CMMD."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, first, second, prompts, vae, sampling, words, clip=None, reward=None, distance=None, unique_id=None):
        asked = {word: with_word(word, prompts, clip) for word in split(words)} if clip is not None else {}
        others = distance is not None and not distance.pictures
        report = Parts(node_progress(unique_id, second), 2 + 2 * len(asked) + others)
        found = Audited((first, second), vae, sampling, report)
        numbers = found.numbers(prompts, asked, reward)
        lines = [] if clip is not None or not split(words) else ["The words were left out: connect clip."]
        lines += [] if distance is None else [found.distances(prompts, distance)]
        text = "\n".join([numbers.report(), *lines])
        return {"ui": {"text": [text]}, "result": (text, found.picture(), not numbers.signs)}


class Parts:
    """Progress over several rollouts."""

    def __init__(self, progress, count: int):
        self._progress, self._count, self._done = progress, count, -1

    def next(self):
        self._done += 1
        return lambda done, total, x0: self._progress(self._done * total + done, self._count * total, x0)


class Audited:
    """Two models, and the pictures that they made so far, by column of the sheet."""

    def __init__(self, models: tuple, vae, sampling, parts: Parts):
        self._models, self._vae, self._sampling, self._parts = models, vae, sampling, parts
        self._columns: dict[str, object] = {}
        self._index = None

    def numbers(self, prompts, asked: dict, reward):
        from ...trainers.run.audit import Audit, audit, obeyed

        plain = self._drawn(prompts, "")
        images, self._index = [made.images for made in plain], plain[0].index
        numbers = audit(*images, self._index)
        for word, with_it in asked.items():
            numbers += obeyed(word, images, [made.images for made in self._drawn(with_it, word)])
        if reward is not None:
            numbers.append(judged(reward, plain))
        return Audit(tuple(numbers), len(images[0]))

    def distances(self, prompts, embedding) -> str:
        """Of both models' pictures to the embedding's, or to the first model's from other noise."""
        from ...trainers.sampling.evaluation import OTHER_NOISE, how_far, known_features, pictures_of

        before, after = (self._columns[name] for name in ("first", "second"))
        others = None
        if not embedding.pictures:
            others = pictures_of(self._models[0], prompts, self._vae, self._sampling, self._parts.next(), OTHER_NOISE).images
        return "\n".join(how_far(embedding, known_features(embedding, others, before), after).lines())

    def picture(self):
        from ...rewards.base.labels import sheet
        from ...trainers.run.audit import side_by_side

        return sheet(side_by_side(list(self._columns.values()), self._index, ROWS), list(self._columns))

    def _drawn(self, prompts, word: str) -> list:
        from ...trainers.sampling.evaluation import pictures_of

        made = [pictures_of(model, prompts, self._vae, self._sampling, self._parts.next()) for model in self._models]
        for name, each in zip(("first", "second"), made, strict=True):
            self._columns[f"{name}, {word}" if word else name] = each.images
        return made


def split(words: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))


def with_word(word: str, prompts, clip):
    """The prompts with the word before each, encoded as they were."""
    from dataclasses import replace

    from ..prompts import encode_prompts

    if prompts.carries_pictures:
        raise ValueError("words: the prompts carry pictures, and no word can be put before an instruction; leave words empty")
    if prompts.texts is None:
        raise ValueError(
            "words: it is not known how the prompts were encoded, so that none can be put before them. Use Encode Prompts, or "
            "leave words empty"
        )
    texts = tuple(replace(prompt, text=f"{word}, {prompt.text}") for prompt in prompts.prompts)
    return encode_prompts(replace(prompts, prompts=texts, positive=None), clip, *prompts.texts)


def judged(reward, made: list):
    """Both models' pictures, scored at once."""
    import torch

    from ...rewards.base.reward import as_reward, score
    from ...trainers.run.audit import fidelity

    prompts = [prompt for each in made for prompt in each.prompts_of_samples()]
    scores = score(reward, torch.cat([each.images for each in made]), prompts, torch.cat([each.index for each in made])).values
    return fidelity(as_reward(reward).info.name, *scores.chunk(2))


NODES = {"PTAudit": PTAudit}
NAMES = {"PTAudit": "Audit (two models)"}

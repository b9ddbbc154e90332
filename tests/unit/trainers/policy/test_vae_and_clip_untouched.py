"""MODEL, VAE and CLIP are bit for bit what they were, however a task on them ends, and so is all that they answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.model_management as management
import pytest
import torch
from fingerprint import fingerprint
from host_sampler import sampled
from interrupted import watched
from PIL import Image
from posttrain.nodes.feedback.data import PTEncodePairs
from posttrain.nodes.prompts import encode_prompts, prompt_set
from posttrain.rewards.base.reward import RewardInfo
from posttrain.toy.judge import demo_judge
from posttrain.toy.models import load_clip
from posttrain.trainers.data.folders import read_folder
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.judges.step_rollout import Candidates, step_rollout
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, backprop_step
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.sampling.evaluation import evaluate
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.srpo import SRPO
from small_models import prompts_for, small_model, small_vae

KIND = "sd15"
SMALL = Sampling(steps=3, width=32, height=32, prompts_per_iteration=1, images_per_prompt=2, batch_size=2, guidance=2.0)
FULL = management.OOM_EXCEPTION("for this test")
Interrupted = management.InterruptProcessingException


@dataclass(frozen=True)
class Bright:
    """fails: an error of the reward's own."""

    fails: bool = False
    info = RewardInfo("bright", None, None, True, True, "")

    def __call__(self, images, prompts):
        if self.fails:
            raise KeyError("a reward's own error")
        return images.mean((1, 2, 3))


@dataclass(frozen=True)
class Users:
    """What loader nodes have made, in inference mode, as the host runs them."""

    model: object
    vae: object
    clip: object

    def parts(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model.model, "vae": self.vae.first_stage_model, "clip": self.clip.cond_stage_model}

    def fingerprints(self) -> dict[str, dict]:
        """Where the host keeps them unloaded: whether they are loaded is the host's to say."""
        management.unload_all_models()
        return {name: fingerprint(part) for name, part in self.parts().items()}

    def answers(self) -> list[torch.Tensor]:
        """KSampler's latents, decoded and encoded pictures, an encoded text."""
        latents = sampled(self.model, KIND, 2.0).latents
        with torch.inference_mode():
            pixels = self.vae.decode(latents)
            (text, extra), *_ = self.clip.encode_from_tokens_scheduled(self.clip.tokenize("a red ball"))
            found = [latents, pixels, self.vae.encode(pixels[..., :3]), text, extra["pooled_output"]]
        return [tensor.clone() for tensor in found]

    def policy(self):
        return create_policy(self.model, Recipe(rank=2))


@pytest.fixture(scope="module")
def users() -> Users:
    with torch.inference_mode():
        model, vae, clip = small_model(KIND), small_vae(KIND), load_clip()
        for part in (model.model, vae.first_stage_model, clip.cond_stage_model):
            for module in part.modules():  # what a loader reads from a file is made in inference mode
                module._parameters.update(
                    {
                        name: torch.nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
                        for name, p in module._parameters.items()
                        if p is not None
                    }
                )
    assert all(p.is_inference() for p in vae.first_stage_model.parameters())
    return Users(model, vae, clip)


def through_reward(users: Users, method: type, **changes):
    settings = SRPO("bright", "dark") if method is SRPO else method()
    options = {"reward": Bright(), "low_memory": False, **changes}
    backprop_step(
        users.policy(),
        prompts_for(KIND),
        users.vae,
        options["reward"],
        SMALL,
        Trainer(settings, Optimizer(low_memory=options["low_memory"])),
    )


def pairs(users: Users, folder):
    for name, colour in (("win", (200, 30, 0)), ("lose", (0, 30, 200))):
        (folder / name).mkdir()
        Image.new("RGB", (64, 64), colour).save(folder / name / "1.png")
        (folder / name / "1.txt").write_text("a red ball")
    PTEncodePairs().run(read_folder(folder, 9), users.policy(), users.vae, users.clip, 64, 64, "crop to fill")


THROUGH = [method for method, row in METHODS.items() if row.needs == OWN_IMAGES]
TASKS = {
    **{method.__name__: lambda users, _, method=method: through_reward(users, method) for method in THROUGH},
    "low memory": lambda users, _: through_reward(users, THROUGH[0], low_memory=True),
    "rollout": lambda users, _: rollout(users.policy(), prompts_for(KIND), users.vae, SMALL),
    "step rollout": lambda users, _: step_rollout(
        users.policy(), prompts_for(KIND), users.vae, SMALL, 0, Bright(), Candidates(threshold=0.0)
    ),
    "evaluation": lambda users, _: evaluate(users.policy(), prompts_for(KIND), users.vae, Bright(), SMALL),
    "prompts": lambda users, _: encode_prompts(prompt_set(["a red ball", "a ball"], "text"), users.clip, "dark", 3.5),
    "pairs": pairs,
}


def changes(before: dict, after: dict) -> list[str]:
    return sorted(str(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key))


@contextmanager
def unchanged(users: Users) -> Iterator[None]:
    answers = users.answers()
    before = users.fingerprints()
    yield
    after = users.fingerprints()
    assert not {name: changes(before[name], after[name])[:3] for name in before if before[name] != after[name]}
    assert all(torch.equal(a, b) for a, b in zip(users.answers(), answers, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_after_success_and_whatever_goes_wrong(users, tmp_path, task):
    """In the first layer, in the last one and at two places in between."""
    folders = iter(range(99))

    def run():
        place = tmp_path / str(next(folders))
        place.mkdir()
        with torch.inference_mode():
            TASKS[task](users, place)

    with unchanged(users):
        with watched(users.parts().values()) as calls:
            run()
        layers = len(calls)
        for at, error in (
            (1, Interrupted()),
            (layers // 3, FULL),
            (layers * 2 // 3, RuntimeError("a layer's own")),
            (layers, FULL),
        ):
            with watched(users.parts().values(), error, at) as calls:
                try:
                    run()
                except (Interrupted, management.OOM_EXCEPTION, RuntimeError):
                    assert at in calls
                else:
                    assert at in calls and error is FULL, "only there does a task go on"


@pytest.mark.parametrize("method", THROUGH, ids=lambda method: method.__name__)
def test_after_a_learned_reward_and_a_reward_that_fails(users, method):
    with unchanged(users), torch.inference_mode():
        through_reward(users, method, reward=demo_judge())
        with pytest.raises(KeyError, match="a reward's own"):
            through_reward(users, method, reward=Bright(fails=True))


@pytest.mark.parametrize("method", THROUGH, ids=lambda method: method.__name__)
def test_after_a_refusal(users, method):
    """A VAE that belongs to another model."""
    other = Users(users.model, small_vae("sd3"), users.clip)
    with torch.inference_mode():
        management.load_models_gpu([other.vae.patcher])
    before = other.fingerprints()
    with unchanged(users), torch.inference_mode(), pytest.raises(ValueError, match="^vae: "):
        through_reward(other, method)
    assert not changes(before["vae"], other.fingerprints()["vae"])

"""Every model at hand: every architecture of the host, every kind of quantised weights, every node that changes a MODEL.

Switched off, a policy on it answers as KSampler does; in its first step every trained layer gets a gradient, but those that
change nothing; and after a step, a refusal, an error and a cancel the MODEL and the VAE are bit for bit what they were, and
KSampler draws the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.model_management as management
import pytest
import torch
import torch._dynamo
from fingerprint import fingerprint
from host_nodes import apply, model_nodes
from host_sampler import Sampled, answers, difference, policy_of, sampled
from interrupted import watched
from posttrain.rewards.base.reward import Prompt, RewardInfo
from posttrain.tests.unit.trainers.policy.test_host_nodes import KINDS, documented
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.policy import open_policy
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.settings import Sampling
from quantised_models import FORMATS, GGUF, kind_in, model_in
from small_models import SIZE, conditioning, prompts_for, small_model, small_vae

try:
    from architectures import HERE, small_vae_of
except ImportError:  # on hosts older than those that they are built by
    HERE, small_vae_of = {}, small_vae

GUIDANCE = 3.0
TOO_MUCH = "gligen"  # in a conditioning: a policy does not know it
Cancelled = management.InterruptProcessingException
HOSTS_OWN = ("fails", "needs a file")  # what the page says of nodes of which no MODEL is to be had here


@dataclass(frozen=True)
class Case:
    """make: (folder) -> the MODEL as a node gives it."""

    kind: str
    make: Callable[[Path], object]
    vae: Callable[[], object]


@dataclass(frozen=True)
class Smooth:
    info = RewardInfo("smooth", None, None, False, True, "")

    def __call__(self, images, prompts):
        weight = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(3))
        return ((3 * images).sin() * weight).flatten(1).mean(1)


def with_node(node: str, kind: str, folder: Path):
    if node not in model_nodes():
        pytest.skip("this host has no such node")
    return apply(model_nodes()[node], kind)


def kind_for(line: str) -> str | None:
    """The first kind of model that the node's row of docs/patches.md tells something of."""
    cells = line.split(" | ")[1:]
    return next((kind for kind, cell in zip(KINDS, cells) if cell not in HOSTS_OWN), None)


CASES = {
    **{f"network: {name}": Case(name, lambda _, name=name: small_model(name), partial(small_vae_of, name)) for name in HERE},
    **{
        f"weights: {name}": Case(kind_in(name), partial(model_in, name), partial(small_vae, kind_in(name)))
        for name in (*FORMATS, *(f"gguf {name}" for name in GGUF))
    },
    **{
        f"node: {node}": Case(kind, partial(with_node, node, kind), partial(small_vae, kind))
        for node, line in documented().items()
        if (kind := kind_for(line))
    },
}


@dataclass(frozen=True)
class Users:
    """What the user's nodes have made."""

    kind: str
    model: object
    vae: object

    def networks(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model.model, "vae": self.vae.first_stage_model}

    def state(self) -> dict:
        """Of the networks and of what is put on the MODEL; a LoRA is in the weights while they are loaded, so they are not."""
        if self.model.patches:
            management.unload_all_models()
        names = ("model_options", "patches", "object_patches", "wrappers", "callbacks", "injections", "additional_models")
        return {
            **{f"on the model: {name}": told(getattr(self.model, name)) for name in names},
            **{(part, *key): value for part, network in self.networks().items() for key, value in fingerprint(network).items()},
        }

    def draw(self) -> tuple[Sampled, torch.Tensor]:
        """What KSampler draws, and its pixels by VAE Decode."""
        drawn = sampled(self.model, self.kind, GUIDANCE, batch=1)  # some nodes can do one image only
        with torch.inference_mode():
            return drawn, self.vae.decode(drawn.latents).clone()

    def step(self, prompts: PromptSet | None = None):
        """A step of DRaFT: it samples, decodes and follows the reward's gradient back through both networks."""
        scale = self.vae.spacial_compression_decode()
        height, width = (size * scale for size in SIZE[self.kind][-2:])
        sampling = Sampling(
            steps=2,
            width=width,
            height=height,
            prompts_per_iteration=1,
            images_per_prompt=1,
            batch_size=1,
            guidance=GUIDANCE,
            scheduler="simple",
        )
        prompts = prompts or prompts_for(self.kind)
        with torch.inference_mode():
            return backprop_step(policy_of(self.model), prompts, self.vae, Smooth(), sampling, Trainer(DRaFT(), Optimizer()))[0]

    def unknown_conditioning(self) -> PromptSet:
        (text, extra), *_ = conditioning(self.kind, 1)
        return PromptSet((Prompt("one"),), ([[text, {**extra, TOO_MUCH: object()}]],), conditioning(self.kind, 3))


def told(value):
    """As far as it can be compared."""
    if isinstance(value, dict):
        return {key: told(part) for key, part in value.items()}
    return [told(part) for part in value] if isinstance(value, (list, tuple)) else id(value)


@contextmanager
def unchanged(users: Users, after: str) -> Iterator[None]:
    before = users.state()
    yield
    now = users.state()
    assert sorted(str(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key))[:3] == [], after


def idle_layers_change_nothing(policy, users: Users) -> None:
    """Layers without a gradient in the first step, by what the policy answers with them at random."""
    without = [key for key in policy.bank if f"{key}.exp_avg" not in policy.optimizer]
    x = torch.randn(1, *SIZE[users.kind], generator=torch.Generator().manual_seed(5))
    at_random = {key: torch.randn_like(value) if key in without else value for key, value in policy.bank.items()}
    found = []
    with torch.inference_mode(), open_policy(policy) as net:
        for bank in (policy.bank, at_random) if without else ():
            random = torch.manual_seed(1) and net.to_device(bank)
            found.append(net.denoise(x, torch.ones(1) * 0.7, prompts_for(users.kind), [0], GUIDANCE, random))
    assert not found or torch.equal(*found), f"{len(without)} layers of {len(policy.bank)} learned nothing: {without[:3]}"
    assert len(without) < len(policy.bank)


@pytest.fixture(autouse=True)
def not_compiled():
    """What is compiled answers the same; compiling takes minutes."""
    with torch._dynamo.config.patch(disable=True):
        yield


@pytest.mark.parametrize("name", CASES)
def test_right_or_refused_and_as_it_was(name, tmp_path):
    with torch.inference_mode():
        users = Users(CASES[name].kind, CASES[name].make(tmp_path), CASES[name].vae())
    picture, pixels = users.draw()
    try:
        with unchanged(users, "a policy that is switched off"), torch.inference_mode():
            assert difference(answers(users.model, users.kind, GUIDANCE, picture), picture) <= 1e-5
    except ValueError as refusal:
        assert str(refusal).startswith("model: ")
        return
    with unchanged(users, "a step"):
        with watched(users.networks().values()) as calls:
            policy = users.step()
        idle_layers_change_nothing(policy, users)
    with unchanged(users, "a refusal"), pytest.raises(ValueError, match="GLIGEN"):
        users.step(users.unknown_conditioning())
    for at, error in ((len(calls) // 4, Cancelled()), (len(calls) // 2, RuntimeError("a layer's own"))):
        with unchanged(users, repr(error)), pytest.raises(type(error)), watched(users.networks().values(), error, at):
            users.step()
    again, pixels_again = users.draw()
    assert torch.equal(again.latents, picture.latents) and torch.equal(pixels_again, pixels)

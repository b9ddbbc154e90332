"""Every architecture that the host knows: gradients, a step of each kind of trainer, and the LoRA in the host's own loader.

docs/models.md has the table; after a change here or in the host write it anew with

    POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/host/test_architectures.py -k every_class

which writes the first table, or with --comfyui and a newer host the second one.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import comfy.model_base
import comfy.supported_models as supported
import pytest
import torch
from architectures import HERE, NEWER, NO_ROW, small_vae_of
from comfyui_version import __version__ as HOST
from host_sampler import answers, difference, sampled
from posttrain.rewards.base.reward import RewardInfo, score_rollout
from posttrain.trainers.ddpo import DDPO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.renoise import Renoised, noised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import open_policy, policy_as_model
from posttrain.trainers.policy.features import block_features, feature_blocks
from posttrain.trainers.policy.patches import check_model
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import SIZE, prompts_for, small_model, trained_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
CARD = "\n## On a card\n"  # from here on the page is tests/simulated/test_architectures.py's
GUIDANCE = 2.0
WAYS = ("plain", "recompute", "blocks", "partly loaded")
RATES = (1e-4, 1e-5, 1e-6)  # of AdamW's first step, which moves every weight by as much
COLUMNS = (
    "architecture",
    "host's class",
    "latents",
    "gradient",
    "by likelihood",
    "DiffusionNFT",
    "Diffusion-DPO",
    "DRaFT-1",
    "judges",
    "LoRA loader",
    "own LoRA",
    "remarks",
)
HEAD = f"""# Models

Every architecture of ComfyUI {HOST}, each as a small instance of its own network with random weights, built by the host as it
builds the real one. Written by tests/host/test_architectures.py.

- **gradient**: of the bank, through guidance, equals finite differences in float64, or in float32 where the
  host's network knows no other; the same with low memory switched on (both
  ways) and with every other layer's weights streamed in.
- **by likelihood**: a rollout with random steps, first ratio exactly 1, and a step of Flow-GRPO or DDPO that lowers its loss.
- **DiffusionNFT**: after a step good images are denoised better, beside bad ones. **Diffusion-DPO**, **DRaFT-1**: a step that
  lowers its loss; DRaFT through a small VAE of the host.
- **judges**: features of the network's middle blocks, for ADD, the step reward of SPO and DPOK's value baseline.
- **LoRA loader**: the exported LoRA in the host's stock loader answers as the policy does.
- **own LoRA**: the policy switched off answers as KSampler does on a model with the user's own LoRA on it.

Video models train on single frames, which are images to every reward. Models that a row does not name take the same way,
or are refused by name.

An attention without a gradient (SageAttention, flash by a flag) is trained through where the network hands its options on to
it. PixArt and Hunyuan-DiT do not, so nothing can stand in between, and the first backward pass says so in words: start ComfyUI
without the flag. A LoRA that is merged into quantised weights is rounded with them: on nvfp4 about half of a small LoRA's
effect is lost in that; Load LoRA (Bypass) of newer hosts loses nothing.

CogVideoX learned from states of variance 1, and so it is trained and compared with the host's own sampler for such models, the
node VOIDSampler. KSampler hands its network states that grow with the noise level: sample its LoRAs with that node.

"""
TABLE = f"""| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""
SECOND = f"""
## Only on newer hosts

What ComfyUI {HOST} has besides, tried there in the same way.

"""


@dataclass(frozen=True)
class Smooth:
    """A smooth, differentiable reward of no meaning: every pixel counts differently."""

    info = RewardInfo("smooth", None, None, False, True, "")

    def __call__(self, images, prompts):
        weight = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(3))
        return ((3 * images).sin() * weight.to(images.device)).flatten(1).mean(1)


@cache
def sampling_of(name: str) -> Sampling:
    ratio = small_vae_of(name).spacial_compression_decode()
    return Sampling(
        steps=3,
        width=SIZE[name][-1] * ratio,
        height=SIZE[name][-2] * ratio,
        prompts_per_iteration=2,
        images_per_prompt=2,
        batch_size=4,
        scheduler="simple",
    )


def problem(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(2, *SIZE[name], generator=generator) for _ in range(2))
    return x, torch.tensor([0.8, 0.4]), weight


def value(net, name: str, bank, recompute: bool = False) -> torch.Tensor:
    x, sigma, weight = problem(name)
    return (net.denoise(x, sigma, prompts_for(name), [0, 1], GUIDANCE, bank, recompute=recompute).double() * weight).sum()


def gradients(policy, name: str, way: str) -> dict[str, torch.Tensor]:
    if way == "partly loaded":
        for module in streamable(policy)[::2]:
            module.comfy_cast_weights = True
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.recomputing_blocks(way == "blocks")
        net.gradients(lambda: (value(net, name, bank, way == "recompute"), {}), list(bank.values()))
        return {k: v.grad.double() for k, v in bank.items() if v.grad is not None}


def streamable(policy) -> list[torch.nn.Module]:
    """What the host leaves in RAM where memory is short, and casts at each forward."""
    return [m for m in policy.model.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]


def check_gradient(name: str) -> list[str]:
    """Names of layers without one: those that this input does not reach."""
    policy = trained_policy(name, HERE[name].dtype)
    found = {way: gradients(policy, name, way) for way in WAYS}
    assert all(found[way].keys() == found["plain"].keys() for way in WAYS), "AdamW moves a zero gradient, and none it does not"
    grads = {key: found["plain"].get(key, torch.zeros_like(value).double()) for key, value in policy.bank.items()}
    norm = sum(float(g.square().sum()) for g in grads.values()) ** 0.5
    generator = torch.Generator().manual_seed(11)
    # half along the gradient, half at random: a wrong sign and a wrong size both show
    direction = {
        k: (grads[k] / norm + 0.01 * torch.randn(v.shape, generator=generator)).float() for k, v in policy.bank.items()
    }
    analytic = sum(float((grads[k] * direction[k]).sum()) for k in grads)
    step, values = (5e-4 if HERE[name].dtype == torch.float64 else 1e-2), []
    with open_policy(policy) as net, torch.no_grad():
        for sign in (1, -1):
            values.append(
                float(value(net, name, net.to_device({k: v + sign * step * direction[k] for k, v in policy.bank.items()})))
            )
    assert analytic == pytest.approx((values[0] - values[1]) / (2 * step), rel=3e-3)
    largest = max(float(g.abs().max()) for g in grads.values())
    for way in WAYS[1:]:
        for key, gradient in found[way].items():
            torch.testing.assert_close(gradient, grads[key], rtol=1e-5, atol=1e-6 * largest, msg=f"{way}: {key}")
    return sorted(
        key.removesuffix(".lora_B") for key in grads if key.endswith(".lora_B") and grads[key].abs().max() < 1e-9 * largest
    )


def check_steps(name: str) -> str:
    """The trainer by likelihood that serves this model."""
    policy, vae, sampling = trained_policy(name), small_vae_of(name), sampling_of(name)
    made = rollout(policy, prompts_for(name), vae, sampling, 0)
    assert made.latents.shape[1:] == SIZE[name] and made.latents.isfinite().all()
    assert made.images.shape == (4, sampling.height, sampling.width, 3)
    scores = score_rollout(Smooth(), made)
    with open_policy(policy) as net:
        likelihood = FlowGRPO() if net.path.name == "flow" else DDPO()
    first = lowers_its_loss(policy, lambda p, o: train_step(p, made, advantages(scores), Trainer(likelihood, o)))
    assert first.metrics["ratio_largest_change"] == 0
    parts_good_from_bad(policy, made, advantages(scores))
    fresh = trained_policy(name, scale=0.0)  # far from the reference its loss is flat
    start = lowers_its_loss(fresh, lambda p, o: train_step(p, made, preferences(scores), Trainer(DiffusionDPO(levels=2), o)))
    assert start.metrics["loss"] == pytest.approx(math.log(2), abs=2e-6)
    lowers_its_loss(policy, lambda p, o: backprop_step(p, prompts_for(name), vae, Smooth(), sampling, Trainer(DRaFT(), o))[0])
    return "Flow-GRPO" if isinstance(likelihood, FlowGRPO) else "DDPO"


def parts_good_from_bad(policy, made, feedback) -> None:
    """A step of DiffusionNFT, whose loss is weighed by its own size: the better half is denoised better after it, beside the
    other."""
    (micros,) = noised(made, feedback.used, 4, 1, 4)
    for rate in RATES:
        new = train_step(policy, made, feedback, Trainer(NFT(levels=4, kl_weight=0), optimizer_at(rate)))
        changes = torch.zeros(len(made.index), dtype=torch.float64)
        with open_policy(policy) as net:
            for micro in micros:
                question = Renoised(net, made, micro)
                after, before = (question.error(question.ask(net.to_device(p.bank))).double() for p in (new, policy))
                changes[micro.rows] += after - before
        good = feedback.values > 0
        if new.metrics["updates"] and changes[good].mean() < changes[~good].mean():
            return
    raise AssertionError(f"no step parts the good from the bad: {changes}")


def optimizer_at(rate: float) -> Optimizer:
    return Optimizer(learning_rate=rate, weight_decay=0.0, max_grad_norm=0.0)


def lowers_its_loss(policy, step):
    """The policy after one step; on the same samples and noise a small enough one lowers the loss."""
    losses = []
    for rate in RATES:
        optimizer = optimizer_at(rate)
        new = step(policy, optimizer)
        assert new.metrics["updates"] and not new.metrics["skipped_updates"]
        losses.append((new.metrics["loss"], step(replace(policy, bank=new.bank), optimizer).metrics["loss"]))
        if losses[-1][1] < losses[-1][0]:
            return new
    raise AssertionError(f"no step lowers the loss: {losses}")


def check_judges(name: str) -> str:
    """ "" or the words in which it is refused."""
    x, sigma, _ = problem(name)
    try:
        with open_policy(trained_policy(name)) as net:
            features = block_features(net, feature_blocks(net), x, sigma, prompts_for(name), [0, 1])
    except ValueError as refusal:
        return f"judges: {str(refusal).removeprefix('model: ')}"
    assert features.isfinite().all() and not torch.equal(features[0], features[1])
    return ""


def check_export(name: str) -> None:
    policy = trained_policy(name)
    host = sampled(policy_as_model(policy), name, GUIDANCE)
    found = []
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for step in host.steps:
            found.append(net.denoise(step.x, step.sigma, prompts_for(name), [0, 0], GUIDANCE, bank, schedule=host.sigmas))
    assert difference(found, host) < 1e-3
    assert difference(answers(policy.model, name, GUIDANCE, host), host) > 1e-3, "the LoRA does nothing"


def check_own_lora(name: str) -> None:
    model = policy_as_model(trained_policy(name, scale=0.08))
    host = sampled(model, name, GUIDANCE)
    assert difference(answers(model, name, GUIDANCE, host), host) <= 1e-5
    assert not torch.equal(host.latents, sampled(small_model(name), name, GUIDANCE).latents)


@cache
def row_of(name: str) -> str:
    each = HERE[name]
    start = (name, each.of, "x".join(map(str, each.latent)))
    try:
        trained_policy(name)
    except ValueError as refusal:
        return _line(*start, *["refused"] * 8, str(refusal))
    idle = check_gradient(name)
    likelihood = check_steps(name)
    judges = check_judges(name)
    check_export(name)
    check_own_lora(name)
    return _line(*start, "yes", likelihood, *["yes"] * 3, "no" if judges else "yes", *["yes"] * 2, _remarks(each, idle, judges))


def _remarks(each, idle: list[str], judges: str) -> str:
    parts = [judges] if judges else []
    parts += [f"also {', '.join(each.like)}"] if each.like else []
    if idle:
        places = sorted({".".join(part for part in layer.split(".")[:-1] if not part.isdigit()) or layer for layer in idle})
        parts.append(f"layers without a part in this input stay as they are: {', '.join(places)}")
    return "; ".join(parts)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def exceptions() -> str:
    """Classes without a row."""
    lines = [f"- {', '.join(classes)}: {why}" for why, classes in NO_ROW.items()]
    return "\nWithout a row:\n\n" + "\n".join(lines) + "\n"


def parts() -> tuple[str, str, str]:
    """The page as it is: what the pinned host writes, what a newer one does, and what the tests on the simulated card do."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    page, card, rest = page.partition(CARD)
    first, heading, second = page.partition("\n## Only on newer hosts\n")
    return first, heading + second, card + rest


def written() -> str:
    """The page with this host's part anew."""
    first, second, card = parts()
    if newer := [row_of(name) for name in HERE if name in NEWER]:
        second = SECOND + TABLE + "\n".join(newer) + "\n"
    else:
        first = HEAD + TABLE + "\n".join(row_of(name) for name in HERE) + "\n" + exceptions()
    return first + second + card


def documented(name: str) -> str | None:
    """The page's row, where this host has written its part."""
    part, head = (parts()[1], SECOND) if name in NEWER else (parts()[0], HEAD)
    rows = [line for line in part.splitlines() if line.startswith(f"| {name} |")]
    return "".join(rows) if part.startswith(head) else None


@pytest.mark.parametrize("name", HERE)
def test_an_architecture(name):
    row = row_of(name)
    if documented(name) is not None and not os.environ.get("POSTTRAIN_WRITE_DOCS"):
        assert documented(name) == row, "write docs/models.md anew"


@pytest.mark.parametrize(
    "name",
    [name for why, classes in NO_ROW.items() if why.startswith("refused") for name in classes if hasattr(supported, name)],
)
def test_what_is_said_to_be_refused_is(name):
    """By what the host says of the class, which is all that is looked at."""
    kind = getattr(supported, name)
    config = SimpleNamespace(unet_config=kind.unet_config, sampling_settings=kind.sampling_settings)
    type_of_model = {"LotusD": "IMG_TO_IMG", "WAN21_FlowRVS": "IMG_TO_IMG_FLOW"}.get(name, "FLOW")
    sampling = comfy.model_base.model_sampling(config, comfy.model_base.ModelType[type_of_model])
    model = SimpleNamespace(
        model=SimpleNamespace(model_config=config, latent_format=kind.latent_format()),
        model_options={},
        get_model_object=lambda name: sampling,
    )
    with pytest.raises(ValueError, match="^model: .*; use a model"):
        check_model(model)


def test_every_class_of_the_host_has_a_row_or_a_reason():
    if os.environ.get("POSTTRAIN_WRITE_DOCS"):
        PAGE.write_text(written(), encoding="utf-8")
    with_a_row = {name for each in HERE.values() for name in (each.of, *each.like)}
    excused = {name for classes in NO_ROW.values() for name in classes}
    known = {kind.__name__ for kind in supported.models}
    assert not known - with_a_row - excused, "this host has new architectures: give them a row, or a reason in NO_ROW"
    assert not with_a_row & excused
    first, *_ = parts()
    missing = [name for name in HERE if documented(name) == ""]
    assert not missing, "write docs/models.md anew"
    if first.startswith(HEAD):
        assert first.endswith(exceptions())

"""Conditionings of every kind that nodes make: the policy switched off answers as KSampler, or they are refused by name."""

from __future__ import annotations

import comfy.supported_models as supported
import pytest
import torch
from host_sampler import answers, difference, policy_of, sampled
from posttrain.rewards.base.reward import Prompt
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.conditioning import UNSUPPORTED
from posttrain.trainers.prompts import PromptSet
from small_models import BUILD, SIZE, UNET, conditioning, prompts_for, small_model

BUILD["inpaint"] = lambda: supported.SD15(
    {**UNET, "use_linear_in_transformer": False, "adm_in_channels": None, "in_channels": 9}
)
SIZE["inpaint"] = SIZE["sd15"]


def with_values(kind: str, seed: int = 1, **values):
    ((text, extra),) = conditioning(kind, seed)
    return [[text, {**extra, **values}]]


def half(side: int) -> torch.Tensor:
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4 * side : 4 * side + 4] = 1
    return mask


def latent(kind: str, seed: int = 4) -> torch.Tensor:
    return torch.randn(1, *SIZE[kind], generator=torch.Generator().manual_seed(seed))


# name: (kind of model, positive, negative)
MADE = {
    "area": lambda: ("sd15", with_values("sd15", area=(8, 4, 0, 0), strength=0.7) + conditioning("sd15", 2), None),
    "area in percent": lambda: (
        "sd3",
        with_values("sd3", area=("percentage", 1.0, 0.5, 0.0, 0.5)) + conditioning("sd3", 2),
        None,
    ),
    "mask": lambda: (
        "sd15",
        with_values("sd15", mask=half(0), mask_strength=0.8, set_area_to_bounds=False) + with_values("sd15", 2, mask=half(1)),
        None,
    ),
    "mask with bounds": lambda: (
        "flux",
        with_values("flux", mask=half(0), set_area_to_bounds=True) + conditioning("flux", 2),
        None,
    ),
    "masked negative": lambda: (
        "sd15",
        conditioning("sd15", 1),
        with_values("sd15", 3, mask=half(0)) + conditioning("sd15", 4),
    ),
    "timed": lambda: (
        "sd15",
        with_values("sd15", start_percent=0.0, end_percent=0.5) + with_values("sd15", 2, start_percent=0.5, end_percent=1.0),
        None,
    ),
    "combined": lambda: ("lumina", conditioning("lumina", 1) + conditioning("lumina", 2), None),
    "average strength": lambda: ("sd15", with_values("sd15", strength=0.4) + conditioning("sd15", 2), None),
    "default": lambda: ("sd15", with_values("sd15", mask=half(0)) + with_values("sd15", 2, default=True), None),
    "texts of unequal length": lambda: ("sd15", conditioning("sd15", 1, 12), conditioning("sd15", 3, 6)),
    "reference latents": lambda: ("flux", with_values("flux", reference_latents=[latent("flux"), latent("flux", 5)]), None),
    "inpainting": lambda: (
        "inpaint",
        with_values("inpaint", concat_latent_image=latent("sd15"), concat_mask=half(0)[None]),
        None,
    ),
    "reference latents, indexed": lambda: (
        "flux",
        with_values("flux", reference_latents=[latent("flux")], reference_latents_method="index"),
        None,
    ),
}


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", MADE)
def test_equals_the_host(name, guidance):
    kind, positive, negative = MADE[name]()
    model = small_model(kind)
    host = sampled(model, kind, guidance, steps=3, positive=positive, negative=negative)
    prompts = PromptSet((Prompt("one"),), (positive,), negative or conditioning(kind, 3))
    assert difference(answers(model, kind, guidance, host, prompts), host) <= 1e-5
    plain = sampled(model, kind, guidance, steps=3)
    assert not torch.equal(plain.latents, host.latents) or (negative and guidance == 1.0)


@pytest.mark.parametrize("name", MADE)
def test_beside_other_prompts_each_sample_gets_what_it_gets_alone(name):
    kind, positive, negative = MADE[name]()
    prompts = PromptSet((Prompt("one"), Prompt("two")), (positive, conditioning(kind, 7)), negative or conditioning(kind, 3))
    x, sigma, index = torch.cat([latent(kind, i) for i in range(4)]), torch.tensor([0.9, 0.9, 0.3, 0.9]), [0, 1, 0, 0]
    with open_policy(policy_of(small_model(kind))) as net:
        together = net.denoise(x, sigma, prompts, index, 2.0, None)
        assert net.evaluations >= 8
        alone = torch.cat([net.denoise(x[i : i + 1], sigma[i : i + 1], prompts, index[i : i + 1], 2.0, None) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradients_go_through_regions():
    kind, positive, _ = MADE["area"]()
    prompts, policy = PromptSet((Prompt("one"),), (positive,), conditioning(kind, 3)), policy_of(small_model(kind))
    x, sigma, weight = latent(kind), torch.tensor([0.7]), latent(kind, 9)
    found = {}
    with open_policy(policy) as net:
        for recompute in (False, True):
            leaf = x.clone().requires_grad_()
            net.gradients(
                lambda: ((net.denoise(leaf, sigma, prompts, [0], 2.0, None, recompute=recompute) * weight).sum(), {}), [leaf]
            )
            found[recompute] = leaf.grad
        values = [
            (net.denoise(x + step * weight, sigma, prompts, [0], 2.0, None).double() * weight).sum() for step in (1e-2, -1e-2)
        ]
    torch.testing.assert_close(found[True], found[False], rtol=1e-5, atol=1e-6)
    assert float((found[False] * weight).sum()) == pytest.approx(float(values[0] - values[1]) / 2e-2, rel=1e-2)


@pytest.mark.parametrize("key", UNSUPPORTED)
@pytest.mark.parametrize("negative", [False, True])
def test_what_is_refused_is_named_before_the_network_runs(key, negative):
    kind = "sd15"
    bad = conditioning(kind, 2) + with_values(kind, **{key: object()})
    prompts = PromptSet((Prompt("one"),), (conditioning(kind, 1) if negative else bad,), bad if negative else None)
    where = "negative prompt" if negative else "prompt 1"
    with (
        open_policy(policy_of(small_model(kind))) as net,
        pytest.raises(ValueError, match=f"{where} carries {UNSUPPORTED[key]}"),
    ):
        net.denoise(latent(kind), torch.ones(1), prompts, [0], 1.0, None)
    assert net.evaluations == 0


def test_prompts_of_one_length_still_share_a_call():
    with open_policy(policy_of(small_model("sd15"))) as net:
        x, calls = torch.cat([latent("sd15", i) for i in range(3)]), []
        net.diffusion_model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
        net.denoise(x, torch.full((3,), 0.5), prompts_for("sd15"), [0, 1, 0], 3.0, None)
    assert calls == [6]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_prompts_with_negatives_of_their_own_are_answered_as_alone(guidance):
    """Where each prompt carries a picture, its negative prompt does, too: guidance is between the two of one picture."""
    positive, negative = (
        tuple(with_values("flux", seed, reference_latents=[latent("flux", picture)]) for picture in (4, 5)) for seed in (1, 3)
    )
    model, index = small_model("flux"), [0, 1, 1, 0]
    x, sigma = torch.cat([latent("flux", i) for i in range(4)]), torch.full((4,), 0.8)
    prompts = PromptSet((Prompt("one"), Prompt("two")), positive, negatives=negative)
    with open_policy(policy_of(model)) as net:
        together = net.denoise(x, sigma, prompts, index, guidance, None)
        for row, number in enumerate(index):
            single = PromptSet((Prompt("one"),), positive[number : number + 1], negative[number])
            alone = net.denoise(x[row : row + 1], sigma[:1], single, [0], guidance, None)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        other = net.denoise(x, sigma, PromptSet(prompts.prompts, positive, negatives=negative[::-1]), index, guidance, None)
    assert torch.equal(other, together) == (guidance == 1.0)

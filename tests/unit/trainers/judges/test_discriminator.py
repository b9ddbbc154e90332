"""The discriminator's heads and verdicts on ComfyUI's real modules: their gradients, one image at a time."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.judges.adversarial_cases import first_duel, made_by
from posttrain.trainers.engine.renoise import Noised
from posttrain.trainers.judges.discriminator import Discriminator, new_heads
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import ARCHITECTURES, small_model, trained_policy


def moved(weights, direction, length: float):
    return {k: v.detach() + length * direction[k] for k, v in weights.items()}


def directions(weights, seed: int = 4):
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) for k, v in weights.items()}


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_the_heads_gradient_is_that_of_their_loss(kind):
    """With a heavy R1, whose gradient goes through a gradient."""
    policy = trained_policy(kind)
    made = made_by(policy, kind)
    with open_policy(policy) as net:
        judge_by, fakes = first_duel(policy, made).judge, made.latents + 0.5
        heads = {k: v.requires_grad_(True) for k, v in new_heads(net, made).items()}

        def loss(weights):
            judge = Discriminator(net, made, judge_by, weights)
            _, features = judge.fake(fakes)
            with torch.enable_grad():
                return judge.loss(features, 20.0).loss

        net.gradients(lambda: (loss(heads), {}), list(heads.values()))
        direction = directions(heads)
        values = [float(loss(moved(heads, direction, length))) for length in (1e-3, -1e-3)]
        along = sum(float((heads[k].grad * direction[k]).sum()) for k in heads)
    assert along == pytest.approx((values[0] - values[1]) / 2e-3, rel=5e-3)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_verdicts_gradient_reaches_the_picture_through_the_frozen_network(kind):
    """Also where prompts of unlike lengths go through it one by one, and the base stays as it is."""
    policy = trained_policy(kind)
    made = made_by(policy, kind, lengths=(6, 9))
    with open_policy(policy) as net:
        before = {k: v.clone() for k, v in net.diffusion_model.state_dict().items()}
        judge = Discriminator(net, made, first_duel(policy, made).judge, new_heads(net, made))
        x0 = made.latents.clone().requires_grad_(True)
        net.gradients(lambda: (judge.fake(x0)[0].mean(), {}), [x0])
        direction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
        values = [float(judge.fake(x0.detach() + length * direction)[0].mean()) for length in (1e-2, -1e-2)]
        along = float((x0.grad * direction).sum())
        assert all(torch.equal(before[k], v) for k, v in net.diffusion_model.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in net.diffusion_model.parameters())
    assert along == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-6)
    assert (x0.grad.flatten(1).norm(dim=1) > 0).all()


def test_each_sample_is_judged_as_if_it_were_alone():
    """Samples that go through the network in groups come back in their own order."""
    policy = trained_policy("sd3")
    made = made_by(policy, "sd3", lengths=(6, 9))
    shuffled = torch.tensor([2, 0, 3, 1])
    duel = first_duel(policy, made).judge
    with open_policy(policy) as net:
        heads = new_heads(net, made)
        verdicts = []
        for order in (shuffled, *shuffled[:, None]):
            places = torch.tensor([duel.rows.tolist().index(int(row)) for row in order])
            some = Noised(order, duel.sigma[places], duel.noise[places], True)
            verdicts.append(Discriminator(net, made, some, heads).fake(made.latents[order])[0])
    torch.testing.assert_close(verdicts[0], torch.cat(verdicts[1:]), rtol=1e-4, atol=1e-5)


def test_half_precision_does_not_lose_the_verdicts_gradient():
    exact, half = (create_policy(small_model("sd3", dtype), Recipe(rank=2)) for dtype in (torch.float32, torch.float16))
    made, gradients = made_by(exact, "sd3"), []
    for policy in (exact, half):
        with open_policy(policy) as net:
            judge = Discriminator(net, made, first_duel(exact, made).judge, new_heads(net, made))
            x0 = made.latents.clone().requires_grad_(True)
            # a loss as small as that of a batch of large pictures
            net.gradients(lambda: (1e-6 * judge.fake(x0)[0].mean(), {}), [x0])
            gradients.append(x0.grad)
    torch.testing.assert_close(*gradients, rtol=0.05, atol=float(0.02 * gradients[0].abs().max()))

"""A reward network in its holder, at the end of a gradient that comes from the policy: CLIP's network, random weights."""
from __future__ import annotations

import pytest
import torch
from posttrain.nodes.prompts import encode_prompts
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.composite.ensemble import Ensemble, Member
from posttrain.rewards.composite.formula import FormulaReward
from posttrain.rewards.learned.holder import held_together
from posttrain.rewards.rules.colour import ColourReward
from posttrain.toy.models import load_clip, load_model, load_vae
from posttrain.toy.prompts import prompt_set
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.latents import latent_shape
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.srpo import SRPO

from .learned.test_clip import reward_of, saved
from .networks import tiny_open_clip

SMALL = Sampling(steps=4, width=24, height=24, prompts_per_iteration=4, images_per_prompt=1, batch_size=4)


@pytest.fixture
def clip_reward(tmp_path):
    return reward_of(saved(tmp_path, tiny_open_clip(), "transformers"), batch_size=2)


@pytest.fixture(scope="module")
def demo():
    with torch.inference_mode():  # as the host's nodes make them
        return load_model("flow"), encode_prompts(PromptSet(prompt_set(held_out=False).prompts[:4]), load_clip(), ""), load_vae()


@pytest.mark.parametrize("settings", [DRaFT(), SRPO("a photo of", "a drawing of")])
def test_a_policy_follows_a_reward_network(demo, clip_reward, settings):
    model, prompts, vae = demo
    rewards, name = [], "relative_reward" if isinstance(settings, SRPO) else "reward_mean"
    with torch.inference_mode():
        policy = create_policy(model, Recipe(rank=4))
        for _ in range(8):
            policy, _ = backprop_step(policy, prompts, vae, clip_reward, SMALL, Trainer(settings, Optimizer(3e-3)))
            rewards.append(policy.metrics[name])
    assert policy.step == 8 and policy.metrics["grad_norm"] > 0
    assert rewards[-1] > rewards[0], rewards


def test_a_composite_of_network_and_statistic_has_a_gradient_from_both(demo, clip_reward):
    model, prompts, vae = demo
    both = WeightedSum(((clip_reward, 1.0), (ColourReward("brightness"), 1.0)))
    found = []
    for reward in (clip_reward, ColourReward("brightness"), both):
        new, _ = backprop_step(create_policy(model, Recipe(rank=4)), prompts, vae, reward, SMALL,
                               Trainer(DRaFT(), Optimizer(max_grad_norm=0.0)))
        found.append(torch.cat([v.flatten() for k, v in new.optimizer.items() if k.endswith("exp_avg")]))
    torch.testing.assert_close(found[2], found[0] + found[1], rtol=1e-4, atol=1e-7)


def test_policy_vae_and_every_reward_network_are_loaded_in_one_go(demo, clip_reward, monkeypatch):
    """Asked for one after the other, the host may move out the first to make room for the last, in mid-gradient."""
    import comfy.model_management as management

    model, prompts, vae = demo
    asked, load = [], management.load_models_gpu
    monkeypatch.setattr(management, "load_models_gpu", lambda models, *a, **k: (asked.append(list(models)), load(models, *a, **k)))
    ensemble = Ensemble((Member(FormulaReward("2*a", (("a", clip_reward),)), scale="raw"),
                         Member(WeightedSum(((clip_reward, 1.0),)), "monitor")))
    management.unload_all_models()
    backprop_step(create_policy(model, Recipe(rank=4)), prompts, vae, ensemble, SMALL, Trainer(DRaFT(), Optimizer()))
    together, = asked
    assert [p.model for p in together] == [model.model, vae.patcher.model, clip_reward._holder._patcher.model]
    clip_reward(torch.rand(1, 40, 40, 3), [Prompt("a cat")])
    assert len(asked) == 2  # outside of a step, each use asks the host


def test_a_network_that_was_moved_out_in_between_is_brought_back(demo, clip_reward):
    image, prompts = torch.rand(1, 40, 40, 3), [Prompt("a cat")]
    before = clip_reward(image, prompts)
    with held_together(clip_reward) as patchers:
        clip_reward._holder.unload()
        assert patchers[0].loaded_size() == 0
        assert torch.equal(clip_reward(image, prompts), before) and patchers[0].loaded_size() == patchers[0].model_size()
        patchers[0].partially_unload(patchers[0].offload_device, patchers[0].model_size() // 2)
        assert 0 < patchers[0].loaded_size() < patchers[0].model_size()
        assert torch.equal(clip_reward(image, prompts), before) and patchers[0].loaded_size() == patchers[0].model_size()


class ShortOfMemory:
    """Raises what torch raises where memory runs out, for as long as the host holds somebody else's network."""

    def __init__(self, other):
        self.other, self.failed = other, 0

    def check(self):
        import comfy.model_management as management

        if any(m.model is self.other for m in management.current_loaded_models):
            self.failed += 1
            raise torch.OutOfMemoryError("simulated")


def test_a_reward_network_makes_room_where_training_runs_out_of_memory(demo, clip_reward):
    model, prompts, vae = demo
    policy = create_policy(model, Recipe(rank=4))

    def step(short):
        found = []
        with open_policy(policy) as net:
            bank = net.to_device(policy.bank, train=True)
            x = torch.randn(2, *latent_shape(model, vae, 24, 24), generator=torch.Generator().manual_seed(0))

            def loss_of():
                out = net.denoise(x, torch.full((2,), 0.5), prompts, [0, 1], 1.0, bank)
                short.check()
                return out.square().mean(), {}

            for _ in range(2):  # the second one adds to the first
                found.append(net.gradients(loss_of, list(bank.values()))[0])
            assert any(m.model.model is model.model for m in current_loaded_models())
        return found, [weight.grad for weight in bank.values()]

    clip_reward(torch.rand(1, 40, 40, 3), [Prompt("a cat")])
    short = ShortOfMemory(clip_reward._holder._patcher)
    losses, gradients = step(short)
    expected, wanted = step(ShortOfMemory(None))
    assert short.failed == 1 and clip_reward._holder._patcher.loaded_size() == 0
    assert torch.equal(losses[0], expected[0]) and all(torch.equal(a, b) for a, b in zip(gradients, wanted))
    with pytest.raises(torch.OutOfMemoryError):  # where nothing can be moved out, the error stays what it is
        with open_policy(policy) as net:
            net.gradients(raising(torch.OutOfMemoryError("simulated")), [])


def raising(error):
    def raise_it():
        raise error
    return raise_it


def current_loaded_models():
    import comfy.model_management as management

    return management.current_loaded_models

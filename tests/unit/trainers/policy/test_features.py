"""The network's features at its blocks, on ComfyUI's real modules."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.judges.step_cases import fresh_policy
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.features import block_features, feature_blocks
from small_models import ARCHITECTURES, SIZE, prompts_for, trained_policy


def states_of(kind: str, count: int = 5):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, *SIZE[kind], generator=generator), torch.full((count,), 0.5), [i % 2 for i in range(count)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_network_has_features_and_is_left_as_it_was(kind):
    policy = fresh_policy(kind)
    x, sigma, index = states_of(kind)
    with open_policy(policy) as net:
        blocks = feature_blocks(net)
        found = block_features(net, blocks, x, sigma, prompts_for(kind), index)
        assert found.shape[0] == 5 and found.shape[1] >= 32 and bool(found.isfinite().all())
        one_by_one = torch.cat(
            [block_features(net, blocks, x[i : i + 1], sigma[i : i + 1], prompts_for(kind), index[i : i + 1]) for i in range(5)]
        )
        torch.testing.assert_close(found, one_by_one, rtol=1e-3, atol=1e-4)
        assert not any(module._forward_hooks for module in net.diffusion_model.modules())
        later = block_features(net, blocks, x, sigma * 0.5, prompts_for(kind), index)
        assert not torch.allclose(found, later, atol=1e-3), "they see the noise level"


@pytest.mark.parametrize("kind", ["sd15", "flux", "lumina"])
def test_features_of_prompts_of_different_lengths_come_back_in_order(kind):
    policy, (x, sigma, index) = fresh_policy(kind), states_of(kind)
    prompts = prompts_for(kind, (4, 9))
    with open_policy(policy) as net:
        blocks = feature_blocks(net)
        together = block_features(net, blocks, x, sigma, prompts, index)
        for i in range(5):
            alone = block_features(net, blocks, x[i : i + 1], sigma[i : i + 1], prompts, index[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)


def test_features_are_the_references_and_stop_at_the_last_block_asked_for():
    x, sigma, index = states_of("sd3")
    found = []
    for policy in (fresh_policy("sd3"), trained_policy("sd3")):
        with open_policy(policy) as net:
            after = []
            hook = net.diffusion_model.final_layer.register_forward_hook(lambda *_: after.append(1))
            found.append(block_features(net, feature_blocks(net), x, sigma, prompts_for("sd3"), index))
            hook.remove()
            assert net.evaluations == 5 and not after
    assert torch.equal(*found)


def features(kind: str, blocks: tuple[str, ...] | None = None) -> torch.Tensor:
    x = torch.randn(3, *SIZE[kind], generator=torch.Generator().manual_seed(0))
    with open_policy(trained_policy(kind)) as net:
        return block_features(
            net, blocks or feature_blocks(net), x, torch.tensor([0.8, 0.8, 0.2]), prompts_for(kind), [0, 1, 0]
        )


@pytest.mark.parametrize(
    "kind", ["sd15", "flux", "Cosmos Predict2", "Wan 2.1"]
)  # maps, pairs of tokens, a grid of tokens, tokens
def test_each_sample_has_features_of_its_own(kind):
    found = features(kind)
    assert len(found) == 3 and found.isfinite().all()
    assert float((found[0] - found[1]).norm()) > 0.01 * float(found[0].norm()) > 0


def test_blocks_without_the_samples_first_are_refused():
    with pytest.raises(ValueError, match="^model: its block 'blocks.block0' does not answer sample by sample.*; judge decoded"):
        features("Cosmos")


def test_a_block_that_these_prompts_do_not_reach_is_named():
    with pytest.raises(
        ValueError, match="^model: its block 'ref_image_refiner.0' does not run with these prompts.*; judge decoded"
    ):
        features("OmniGen2", ("layers.0", "ref_image_refiner.0"))

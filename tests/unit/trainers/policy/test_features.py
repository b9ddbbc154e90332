"""Features of a network's middle blocks, whatever form the blocks answer in, or the words in which they are refused."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.features import block_features, feature_blocks
from small_models import SIZE, prompts_for, trained_policy


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

"""From the votes on the disk to a reward that answers by itself, in an ensemble and through its gradient."""

from __future__ import annotations

import folder_paths
import pytest
import torch
from posttrain.nodes.rewards.person import votes_folder
from posttrain.nodes.rewards.taste import PTRewardTaste
from posttrain.rewards.base.pixels import png_bytes
from posttrain.rewards.base.reward import Prompt, score
from posttrain.trainers.data.vote_book import VoteBook, together
from safetensors import safe_open
from safetensors.torch import save_file

from ...rewards.networks import picture, tiny_open_clip


@pytest.fixture
def voted(models, tmp_path, monkeypatch):
    """Somebody who likes red pictures has judged 24 pairs of 24 prompts."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    (models / "clip_vision").mkdir(parents=True)
    weights = {k: v.contiguous() for k, v in tiny_open_clip(quick_gelu=True).state_dict().items()}
    save_file(weights, models / "clip_vision" / "clip-vit-large-patch14.safetensors")
    book = VoteBook(votes_folder("red"))
    for i in range(24):
        pair = [png_bytes(tinted(i, red)[0]) for red in (0.4, -0.4)]
        for data, vote in zip(pair, (1, -1)):
            book.add(data, f"prompt {i}", vote, together(pair))


def tinted(seed: int, red: float) -> torch.Tensor:
    return (picture(56, 56 + 8 * (seed % 3), seed) + torch.tensor([red, 0.0, 0.0])).clamp(0, 1)


def test_votes_become_a_reward_that_says_how_good_it_is(voted):
    from posttrain.nodes.rewards.composite import PTRewardEnsemble, PTRewardMember
    from posttrain.nodes.rewards.simple import PTRewardColour

    with torch.inference_mode():  # as the host runs nodes
        found = PTRewardTaste().run("red", "CLIP", "auto", "fp32")
    reward, summary = found["result"]
    assert found["ui"]["text"] == [summary] and "Fitted from 24 pairs, 0 ties and 0 single images" in summary
    assert summary.startswith("Right on") and "of 24 votes that it had not seen, of 24 prompts" in summary
    new = torch.cat([tinted(102, 0.4), tinted(102, -0.4)])
    assert reward(new, [Prompt("")] * 2).diff() < 0
    x = new.clone().requires_grad_()
    reward(x, [Prompt("")] * 2).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    colour = PTRewardColour().run("brightness", "less", 0.0, 1.0)[0]
    members = [PTRewardMember().run(each, **default(PTRewardMember))[0] for each in (reward, colour)]
    both = PTRewardEnsemble().run(**default(PTRewardEnsemble), member_1=members[0], member_2=members[1])["result"][0]
    found = score(both, new, [Prompt("a")] * 2, [0, 0])
    assert "taste: red" in found.members and torch.isfinite(found.values).all()


def default(node) -> dict:
    """Every widget of a node as it stands when it is placed."""
    inputs = {k: v for part in ("required", "optional") for k, v in node.INPUT_TYPES().get(part, {}).items()}
    return {
        k: v[1]["default"] if "default" in v[1] else v[0][0]
        for k, v in inputs.items()
        if isinstance(v[0], (list, tuple)) or v[0] in ("INT", "FLOAT", "STRING", "BOOLEAN")
    }


def test_the_file_is_a_head_that_says_where_it_comes_from(voted):
    from posttrain.rewards.learned.aesthetic import load_head

    _, summary = PTRewardTaste().run("red", "CLIP", "auto", "fp32")["result"]
    file = votes_folder("red") / "taste.safetensors"
    assert load_head(file)[0].shape == (1, 48)
    with safe_open(file, "pt") as saved:
        assert saved.metadata() == {"tower": "CLIP", "model": "clip-vit-large-patch14.safetensors", "summary": summary}


def test_new_votes_are_a_change_and_a_name_that_is_none_is_refused(voted):
    before = PTRewardTaste.IS_CHANGED("red")
    VoteBook(votes_folder("red")).add(png_bytes(tinted(1, 0.1)[0]), "more", 1)
    assert PTRewardTaste.IS_CHANGED("red") != before and PTRewardTaste.IS_CHANGED("nobody") == "missing"
    assert PTRewardTaste.VALIDATE_INPUTS("auto", "../x") is not True and PTRewardTaste.VALIDATE_INPUTS("auto", "red") is True
    with pytest.raises(ValueError, match="rate images with Rate by Hand"):
        PTRewardTaste().run("nobody", "CLIP", "auto", "fp32")

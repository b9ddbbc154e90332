"""Encoded preference data: once per image, half precision, dealt like cards, trained on by every pair trainer."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from posttrain.nodes.feedback.data import PTEncodePairs
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.data.encoded import deal, encode
from posttrain.trainers.data.folders import read_folder
from posttrain.trainers.data.images import Frame
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.kto import KTO
from posttrain.trainers.mapo import MaPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.prompts import PromptSet
from small_models import conditioning, small_model

FRAME = Frame(64, 64)


def image(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path)
    return path


@pytest.fixture
def pairs(tmp_path):
    """Seven pairs of five prompts."""
    for i in range(7):
        image(tmp_path / "win" / f"{i}.png", (200, 30 * i, 0)).with_suffix(".txt").write_text(f"prompt {i % 5}")
        image(tmp_path / "lose" / f"{i}.png", (0, 30 * i, 200))
    return read_folder(tmp_path, 99)


def test_the_same_words_about_two_pictures_are_two_prompts(tmp_path):
    for i in range(4):
        image(tmp_path / "win" / f"{i}.png", (200, 30 * i, 0)).with_suffix(".txt").write_text(f"paint it {i // 3}")
        image(tmp_path / "lose" / f"{i}.png", (0, 30 * i, 200))
        image(tmp_path / "source" / f"{i}.png", (i, i, i))
    data = encoded(read_folder(tmp_path, 9))
    assert [(prompt.text, prompt.source.name) for prompt in data.prompts.prompts] == [
        (f"paint it {i // 3}", f"{i}.png") for i in range(4)
    ]
    assert data.prompt.tolist() == [0, 1, 2, 3]


class Encoder:
    """Stands where a VAE would: colours become channels. Counts its calls."""

    def __init__(self, channels: int):
        self.channels, self.calls = channels, 0

    def __call__(self, pixels):
        self.calls += 1
        return pixels.movedim(-1, 1)[:, :1, ::8, ::8].repeat(1, self.channels, 1, 1) + 0.001


def texts(kind: str):
    return lambda prompts: PromptSet(prompts.prompts, tuple(conditioning(kind, i) for i in range(len(prompts))), None)


def encoded(data, kind: str = "sd3"):
    return encode(data, FRAME, Encoder({"sd15": 4}.get(kind, 16)), texts(kind))


def fresh_policy(kind: str = "sd3"):
    return create_policy(small_model(kind), Recipe(rank=4, targets="all linear layers"))


def test_everything_is_encoded_once_and_kept_in_half_precision(pairs):
    encoder = Encoder(16)
    data = encode(pairs, FRAME, encoder, texts("sd3"))
    assert encoder.calls == 14 and data.latents.dtype == torch.float16 and data.latents.shape == (14, 16, 8, 8)
    assert [p.text for p in data.prompts.prompts] == [f"prompt {i}" for i in range(5)] and data.prompt.tolist()[5:] == [0, 1]
    assert "7 pairs, 14 images, 5 prompts, 0.0 MB" in data.summary()


def test_an_image_that_several_pairs_share_is_encoded_once(tmp_path):
    import json

    from posttrain.trainers.data.files import read_file

    for name, colour in (("a", (200, 0, 0)), ("b", (0, 200, 0)), ("c", (0, 0, 200))):
        image(tmp_path / f"{name}.png", colour)
    rows = [{"prompt": "x", "chosen": "a.png", "rejected": f"{n}.png"} for n in "bc"]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    encoder = Encoder(16)
    data = encode(read_file(tmp_path / "p.jsonl", 9), FRAME, encoder, texts("sd3"))
    assert encoder.calls == 3 and data.places.tolist() == [[0, 1], [0, 2]]


def test_rows_that_only_encoding_finds_bad_are_left_out_and_listed(pairs):
    same, cut, wide = (pairs.rows[i].loser.path for i in range(3))
    Image.open(pairs.rows[0].winner.path).save(same, compress_level=0)
    noise = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:4000])
    Image.new("RGB", (96, 64)).save(wide)
    data = encode(pairs, Frame(64, 64, "must have this size"), Encoder(16), texts("sd3"))
    assert len(data) == 4 and [line.split(" (")[0] for line in data.skipped] == [
        "0: both images are the same",
        "1: lose/1.png is damaged",
        "2: the size is 64 x 64 and 96 x 64, not 64 x 64",
    ]
    assert "3 rows were left out" in data.summary()
    with pytest.raises(ValueError, match="none of its rows can be used\n7 rows were left out"):
        encode(pairs, Frame(32, 32, "must have this size"), Encoder(16), texts("sd3"))


def test_images_that_the_vae_cannot_encode_are_left_out_and_listed(pairs):
    """A half precision VAE that overflows: one such row would make every update that it is in be skipped."""

    class Overflowing(Encoder):
        def __call__(self, pixels):
            return super().__call__(pixels) * (torch.nan if self.calls == 3 else 1.0)

    data = encode(pairs, FRAME, Overflowing(16), texts("sd3"))
    assert len(data) == 6 and data.skipped[0].startswith("1: the VAE's answer is not a number; run the VAE in 32 bit")
    run, preferences = deal(data, fresh_policy(), 0, 6, 0, 4)
    new = train_step(fresh_policy(), run, preferences, Trainer(DiffusionDPO(levels=1), Optimizer()))
    assert new.metrics["updates"] == 1 and new.metrics["skipped_updates"] == 0


def test_pairs_are_dealt_like_cards(pairs):
    data, policy = encoded(pairs), fresh_policy()
    seen = []
    for iteration in range(7):
        run, preferences = deal(data, policy, iteration, 2, 5, 4)
        assert len(run.latents) == 4 and run.images.shape == (4, 64, 64, 3) and run.latents.dtype == torch.float32
        seen += [tuple(place) for place in run.images[:2, 0, 0].mul(255).round().int().tolist()]
        # winners are red, losers blue; a pair has one prompt
        assert bool((run.images[preferences.winner, 0, 0, 0] > 0.5).all())
        assert bool((run.images[preferences.loser, 0, 0, 2] > 0.5).all())
        assert torch.equal(run.index[preferences.winner], run.index[preferences.loser])
    assert {seen.count(place) for place in seen} == {2}, "14 of 7 pairs: each twice"
    again, _ = deal(data, policy, 3, 2, 5, 4)
    same, _ = deal(data, policy, 3, 2, 5, 4)
    other, _ = deal(data, policy, 3, 2, 6, 4)
    assert torch.equal(again.latents, same.latents) and torch.equal(again.seeds, same.seeds)
    assert not torch.equal(again.seeds, other.seeds)
    assert len(deal(data, policy, 0, 99, 5, 4)[0].latents) == 14


@pytest.mark.parametrize(
    "settings, evaluations",
    [(DiffusionDPO(levels=2), 3 * 2 * 4), (MaPO(levels=2), 3 * 2 * 2), (D3PO(rebuilt_steps=3), 3 * 3 * 4)],
)
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_every_pair_trainer_learns_from_data(pairs, kind, settings, evaluations):
    policy = fresh_policy(kind)
    run, preferences = deal(encoded(pairs, kind), policy, 0, 3, 0, 4)
    new = train_step(policy, run, preferences, Trainer(settings, Optimizer(learning_rate=1e-3)))
    assert new.metrics["update_evaluations"] == evaluations and new.metrics["updates"] == 1
    assert new.metrics["epochs"] == pytest.approx(3 / 7)


def test_thumbs_from_data_train_kto(tmp_path):
    for i in range(4):
        image(tmp_path / ("like" if i % 2 else "dislike") / f"{i}.png", (50 * i, 0, 100)).with_suffix(".txt").write_text("x")
    data, policy = encoded(read_folder(tmp_path, 9)), fresh_policy()
    run, thumbs = deal(data, policy, 0, 4, 0, 4)
    assert thumbs.stats["desirable"] == 2 and [bool(g) for g in thumbs.desirable] == [
        bool(abs(float(run.images[i, 0, 0, 0]) * 255 % 100 - 50) < 1) for i in range(4)
    ]
    assert train_step(policy, run, thumbs, Trainer(KTO(levels=1), Optimizer())).metrics["loss"] == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="learns from pairs of images.*thumbs"):
        train_step(policy, run, thumbs, Trainer(DiffusionDPO(), Optimizer()))


def test_data_of_another_model_is_refused(pairs):
    with pytest.raises(ValueError, match="16 channels, but the policy's model has 4"):
        deal(encoded(pairs), fresh_policy("sd15"), 0, 2, 0, 4)


def test_the_vae_of_another_model_is_named_as_the_nodes_input(pairs):
    class OtherVAE:
        def encode(self, pixels):
            return torch.zeros(1, 4, 8, 8)

    with pytest.raises(ValueError, match="^vae: its latents have 4 channels, but the policy's model has 16; connect the VAE"):
        PTEncodePairs().run(pairs, fresh_policy(), OtherVAE(), object(), 64, 64, "crop to fill")


def test_images_that_vanished_are_named(pairs):
    data = encoded(pairs)
    for row in pairs.rows:
        row.loser.path.unlink()
    with pytest.raises(ValueError, match="lose/.*is it still there"):
        deal(data, fresh_policy(), 0, 2, 0, 4)


def test_data_made_in_inference_mode_trains(pairs):
    with torch.inference_mode():
        data, policy = encoded(pairs), fresh_policy()
        run, preferences = deal(data, policy, 0, 3, 0, 4)
        new = train_step(policy, run, preferences, Trainer(DiffusionDPO(levels=1), Optimizer()))
    assert new.metrics["updates"] == 1

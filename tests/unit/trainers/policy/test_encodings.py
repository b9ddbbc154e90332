"""Encodings that come from the disk are bit for bit the text encoder's, and as many prompts as one likes take no more RAM."""

from __future__ import annotations

import gc
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from posttrain.nodes import prompts as nodes
from posttrain.rewards.base.reward import Prompt, RewardInfo, Scores
from posttrain.toy.models import load_clip, load_model, load_vae
from posttrain.trainers.alignprop import AlignProp
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.judges.step_rollout import Candidates, step_rollout
from posttrain.trainers.methods import Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.policy.encodings import Encodings, packed, unpacked
from posttrain.trainers.policy.scratch import scratch_folder
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.draws import AHEAD, chosen_prompts
from posttrain.trainers.sampling.evaluation import evaluate
from posttrain.trainers.sampling.rollout import rollout, rollout_from_latents
from posttrain.trainers.sampling.settings import Sampling

SMALL = Sampling(steps=3, width=24, height=24, prompts_per_iteration=2, images_per_prompt=2, batch_size=4, seed=3)


def conditioning(seed: int = 0) -> list:
    """As text encoders of several families answer: pooled or none, masks, lists, plain numbers."""
    random = torch.Generator().manual_seed(seed)
    text = torch.randn(1, 7, 5, generator=random)
    extra = {
        "pooled_output": torch.randn(1, 5, generator=random, dtype=torch.float32).to(torch.bfloat16),
        "attention_mask": torch.tensor([[1, 1, 0]]),
        "conditioning_llama3": text.movedim(1, 2)[:, 1:],
        "layers": [text.half(), (text.double(), None)],
        "guidance": 3.5,
        "name": "x",
        "flag": True,
    }
    return [[text, extra], [torch.zeros(1, 0), {"pooled_output": None, "clip_start_percent": 1 / 3}]]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


class Encoder:
    """Counts what it is asked. kilobytes: of an answer."""

    def __init__(self, kilobytes: int = 1):
        self.asked: Counter[str] = Counter()
        self.kilobytes = kilobytes

    def __call__(self, text: str) -> list:
        self.asked[text] += 1
        return [[torch.full((1, self.kilobytes, 256), float(int(text))), {"pooled_output": None}]]


def files_of(encodings: Encodings):
    return sorted(encodings._disk._folder.iterdir())


def test_a_file_gives_back_what_was_put_into_it():
    for seed in range(3):
        assert same(unpacked(packed(conditioning(seed))), conditioning(seed))


@pytest.mark.parametrize("odd", [object(), {1: "a key that is no text"}, torch.zeros(1, dtype=torch.complex128)])
def test_what_no_file_can_hold_is_made_when_it_is_needed(odd):
    wanted = [[torch.ones(1, 2), {"hooks": odd}]]
    encodings = Encodings(["a", "b"], lambda text: wanted)
    encodings.prepare([0], [1])
    assert (
        encodings[0] is wanted and encodings[1] is wanted and (packed(wanted) is None or same(unpacked(packed(wanted)), wanted))
    )


def test_each_text_is_made_once_and_only_what_is_used_is_in_ram():
    encoder = Encoder()
    encodings = Encodings([str(i % 6) for i in range(12)], encoder)
    encodings.prepare([0, 6, 1], range(2, 5))
    assert encoder.asked == dict.fromkeys("01234", 1) and set(encodings._held) == {"0", "1"}
    encodings.prepare([3, 4], [5])
    assert set(encodings._held) == {"3", "4"} and encoder.asked == dict.fromkeys("01234", 1), "nothing missed, nothing made"
    assert [float(encodings[i][0][0][0, 0, 0]) for i in range(6)] == [0, 1, 2, 3, 4, 5] and encodings[-1][0][0].mean() == 5
    assert set(encoder.asked.values()) == {1} and len(encodings[2:4]) == 2


def test_the_disk_holds_no_more_than_it_may():
    encoder = Encoder(kilobytes=16)
    encodings = Encodings([str(i) for i in range(100)], encoder, most_bytes=200_000)
    for first in range(0, 100, 4):
        encodings.prepare(range(first, first + 4), range(first + 4, 100))
        assert sum(file.stat().st_size for file in files_of(encodings)) <= 200_000
        assert all(float(encodings[i][0][0].mean()) == i for i in range(first, first + 4))
    assert set(encoder.asked.values()) == {1}, "what comes next does not push out what comes before it"
    encodings.prepare([0])
    assert encoder.asked["0"] == 2 and float(encodings[0][0][0].mean()) == 0


def test_damaged_and_lost_files_are_made_again():
    encoder = Encoder()
    encodings = Encodings(["0", "1", "2"], encoder)
    encodings.make(range(3))
    flipped, cut, lost = (encodings._disk._file(str(i)) for i in range(3))
    data = bytearray(flipped.read_bytes())
    data[-3] ^= 4
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:50])
    lost.unlink()
    encodings.prepare(range(3))
    assert [float(encodings[i][0][0].mean()) for i in range(3)] == [0, 1, 2] and set(encoder.asked.values()) == {2}


def test_a_disk_that_takes_nothing_costs_no_run(caplog):
    encoder = Encoder()
    encodings = Encodings(["0", "1", "2"], encoder)
    encodings._disk._folder = scratch_folder(encodings, "x") / "gone"
    encodings.prepare([0, 1], [2])
    assert [float(encodings[i][0][0].mean()) for i in range(2)] == [0, 1] and encoder.asked["0"] == 1
    assert caplog.text.count("cannot be kept on the disk") == 1


def test_the_files_go_with_the_value():
    encodings = Encodings(["0"], Encoder())
    encodings.make([0])
    folder = encodings._disk._folder
    assert len(list(folder.iterdir())) == 1
    del encodings
    gc.collect()
    assert not folder.exists()


def test_20000_prompts_take_no_more_ram_than_an_iteration_draws():
    import psutil

    encodings = Encodings([str(i) for i in range(20_000)], Encoder(kilobytes=64), most_bytes=40 * 2**20)
    order, process = torch.randperm(20_000, generator=torch.Generator().manual_seed(0)).tolist(), psutil.Process()
    seen = []
    for iteration in range(250):  # 2,000 of them, 128 MB
        picks = order[8 * iteration : 8 * iteration + 8]
        encodings.prepare(picks, order[8 * iteration + 8 : 8 * iteration + 264])
        assert all(float(encodings[i][0][0][0, 0, 0]) == i for i in picks) and len(encodings._held) == 8
        seen.append(process.memory_info().rss)
    assert max(seen[25:]) - seen[25] < 24 * 2**20


class Smooth:
    """A reward with a gradient, of no meaning."""

    info = RewardInfo("smooth", None, None, False, True, "")

    def __call__(self, images, prompts):
        return (3 * images).sin().mean((1, 2, 3))


def captions(count: int) -> PromptSet:
    colours = ("red", "green", "blue")
    return PromptSet(tuple(Prompt(f"{colours[i % 3]} ball number {i}") for i in range(count)))


class Watched:
    """A text encoder that counts what it is asked, and how often while the model's layers carry a policy."""

    def __init__(self, world):
        self.world, self.calls, self.in_an_open_policy = world, 0, 0

    def tokenize(self, text):
        return self.world.clip.tokenize(text)

    def encode_from_tokens_scheduled(self, tokens):
        self.calls += 1
        layers = self.world.model.model.diffusion_model.modules()
        self.in_an_open_policy += any("forward" in vars(layer) for layer in layers)
        return self.world.clip.encode_from_tokens_scheduled(tokens)


@pytest.fixture(scope="module")
def world():
    model, clip, vae = load_model("flow"), load_clip(), load_vae()
    return SimpleNamespace(model=model, clip=clip, vae=vae, policy=create_policy(model, Recipe(rank=2)))


def advantages_of(made):
    return advantages(Scores(made.images.mean((1, 2, 3)).double(), made.index, {}, {}))


class Held(tuple):
    """Encodings that are all in RAM; some of them nobody asks for."""

    given = ()


def test_as_many_prompts_as_one_likes_give_the_same_images(world):
    """Encoded before the run and held in RAM, as every set once was; and encoded when their turn comes, here in two sessions."""
    texts, iterations = captions(nodes.AT_ONCE + 1), (0, 1, 2, 400)
    drawn = {int(i) for iteration in iterations for i in chosen_prompts(len(texts), SMALL, iteration)}
    held = tuple(nodes.encoding(world.clip, 0.0, p.text) if i in drawn else None for i, p in enumerate(texts.prompts))
    before = PromptSet(texts.prompts, Held(held), nodes.encoding(world.clip, 0.0, ""))
    first, resumed = (nodes.encode_prompts(texts, world.clip, "") for _ in range(2))
    for iteration in iterations:
        prompts = first if iteration < 2 else resumed
        expected, made = (rollout(world.policy, each, world.vae, SMALL, iteration) for each in (before, prompts))
        assert torch.equal(made.images, expected.images) and torch.equal(made.trajectory.states, expected.trajectory.states)
        new, old = (
            train_step(world.policy, each, advantages_of(each), Trainer(FlowGRPO(beta=0.1), Optimizer()))
            for each in (made, expected)
        )
        assert all(torch.equal(new.bank[key], old.bank[key]) for key in old.bank)


STEPS = {
    "rollout and train step": lambda world, prompts, i: _trained(world, rollout(world.policy, prompts, world.vae, SMALL, i)),
    "through the reward": lambda world, prompts, i: backprop_step(
        world.policy, prompts, world.vae, Smooth(), SMALL, Trainer(AlignProp(), Optimizer()), i
    ),
    "step rollout": lambda world, prompts, i: step_rollout(
        world.policy, prompts, world.vae, SMALL, i, Smooth(), Candidates(threshold=0.0)
    ),
    "latents of another sampler": lambda world, prompts, i: _trained(
        world, rollout_from_latents(world.policy, torch.randn(2, 3, 24, 24), prompts, world.vae, i + 1), NFT()
    ),
    "empty prompts": lambda world, prompts, i: _without_prompts(world, rollout(world.policy, prompts, world.vae, SMALL, i)),
    "held-out prompts": lambda world, prompts, i: evaluate(
        world.policy, PromptSet(prompts.prompts[:2], prompts.positive, prompts.negative), world.vae, Smooth(), SMALL
    ),
}


def _trained(world, made, settings=None):
    return train_step(world.policy, made, advantages_of(made), Trainer(settings or FlowGRPO(), Optimizer()))


def _without_prompts(world, made):
    better = Scores(torch.arange(4.0).double(), made.index, {}, {})
    return train_step(world.policy, made, preferences(better), Trainer(DiffusionDPO(empty_prompts=0.9), Optimizer()))


@pytest.mark.parametrize("step", STEPS)
def test_the_text_encoder_is_not_needed_while_the_network_is_loaded(world, step):
    watched = Watched(world)
    prompts = nodes.encode_prompts(captions(nodes.AT_ONCE + 200), watched, "")
    assert watched.calls == 1, "the negative prompt"
    STEPS[step](world, prompts, 0)
    first = watched.calls
    assert 1 <= first - 1 <= 2 + AHEAD and watched.in_an_open_policy == 0
    if first > 100:
        for iteration in range(1, 4):
            STEPS[step](world, prompts, iteration)
        assert watched.calls == first, "the next iterations' were encoded with the first ones"


def test_few_prompts_are_encoded_before_the_run(world):
    watched = Watched(world)
    prompts = nodes.encode_prompts(captions(20), watched, "")
    assert watched.calls == 21 and not prompts.positive._held
    rollout(world.policy, prompts, world.vae, SMALL, 0)
    assert watched.calls == 21

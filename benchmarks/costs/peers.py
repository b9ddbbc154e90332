"""A train step beside what people would use instead, on the same network, layers and data: ComfyUI's own Train LoRA,
Diffusion-DPO written with diffusers and peft, TRL's DDPO trainer, and flow_grpo and Flow-Factory where the variables FLOW_GRPO and
FLOW_FACTORY name a checkout."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tools import pack

from . import Measure
from . import _flow_scripts as flow
from . import _trl_ddpo as trl
from ._diffusers_dpo import dpo, unet
from ._least import least_of_dpo, least_of_rollout
from ._network import LATENT, TEXT, most_kept, patcher, policy, prompts, ratios, texts
from ._regression import regression as updates

STEPS, RANK, EVERYWHERE = 2, 8, "all linear layers and convolutions"
PAIRS = 4
BATCH, BATCHES, DRAWN_STEPS = 8, 2, 5  # of a rollout and its update by likelihood


def measure() -> list[Measure]:
    found = []
    for batch in (1, 4):
        (theirs, their_network, their_layers), (ours, network, layers) = train_lora(batch), regression(batch)
        ratio, seconds = ratios(theirs, {"ours": ours}, 4)["ours"]
        held = most_kept(network, ours) / most_kept(their_network, theirs)
        what = f"against ComfyUI's Train LoRA, batches of {batch}"
        found += [Measure(f"a step of reward-weighted regression {what}", ratio, "x", 1.0,
                          f"{1000 * seconds / STEPS:.0f} ms; {layers} layers, theirs {their_layers}"),
                  Measure(f"what it keeps for its backward {what}", held, "x", 1.0)]  # fmt: skip
    return [*found, *preference_step(), *iteration_by_likelihood(), *iterations_of_flow_grpo()]


def preference_step() -> list[Measure]:
    """A Diffusion-DPO update of PAIRS pairs at once."""
    made = policy(RANK, "attention")
    latents = torch.randn(2, PAIRS, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(4))
    theirs = unet(made.model.model.diffusion_model)
    words = texts(PAIRS)
    their_step, their_layers = dpo(theirs, latents, words, RANK)
    ours = our_dpo(made, latents)
    taken = ratios(their_step, {"ours": ours, "least": least_of_dpo(made, latents, words)})
    ratio, seconds = taken["ours"]
    own = made.model.model.diffusion_model
    held = most_kept(own, ours) / most_kept(theirs, their_step)
    what = f"against diffusers and peft, {PAIRS} pairs at once"
    return [Measure(f"an update of Diffusion-DPO {what}", ratio, "x", 1.15,
                    f"{1000 * seconds:.0f} ms; {len(made.bank) // 2} layers, theirs {their_layers}"),
            least(taken, what), Measure(f"what it keeps for its backward {what}", held, "x", 1.05)]  # fmt: skip


def least(taken: dict[str, tuple[float, float]], what: str) -> Measure:
    """What no exact implementation can do without, of the peer's time."""
    ratio, seconds = taken["least"]
    return Measure(f"the same evaluations of the bare network {what}", ratio, "x", None, f"{1000 * seconds:.0f} ms")


def iteration_by_likelihood() -> list[Measure]:
    """DDPO: a rollout with its decoding, and an update of all its steps."""
    made = policy(trl.RANK, "attention")
    own, theirs = made.model.model.diffusion_model, unet(made.model.model.diffusion_model)
    trainer = trl.trainer(theirs, BATCH, BATCHES, DRAWN_STEPS)
    peer = Iteration(theirs, lambda: trainer._generate_samples(BATCHES, BATCH), trl.update(trainer, BATCH, BATCHES))
    what = f"against TRL's DDPO, {BATCH * BATCHES} images of {DRAWN_STEPS} steps"
    noise = torch.zeros(BATCH, 4, LATENT, LATENT)
    bare = least_of_rollout(made, vae(), DRAWN_STEPS, BATCHES, noise, texts(BATCH))
    return beside(peer, Iteration(own, *our_ddpo(made)), "DDPO", what, (1.1, 1.05, 1.05), bare)


@dataclass(frozen=True)
class Iteration:
    """network: of the model; roll: a rollout; update: one on it."""

    network: torch.nn.Module
    roll: Callable
    update: Callable


def beside(
    peer: Iteration, own: Iteration, name: str, what: str, limits: tuple[float, float, float], bare: Callable | None = None
) -> list[Measure]:
    """limits: of the ratios of a rollout, an update, and what it keeps; bare: the evaluations of a rollout alone, measured as well."""
    rolls = ratios(peer.roll, {"ours": own.roll} | ({"least": bare} if bare else {}), 5)
    rolled, seconds = rolls["ours"]
    updated, more_seconds = ratios(peer.update, {"ours": own.update}, 5)["ours"]
    held = most_kept(own.network, own.update) / most_kept(peer.network, peer.update)
    return [Measure(f"a rollout {what}", rolled, "x", limits[0], f"{1000 * seconds:.0f} ms, decoding included"),
            Measure(f"an update of {name} {what}", updated, "x", limits[1], f"{1000 * more_seconds:.0f} ms"),
            *([least(rolls, f"in a rollout {what}")] if bare else []),
            Measure(f"what it keeps for its backward {what}", held, "x", limits[2])]  # fmt: skip


def our_ddpo(made) -> tuple[Callable, Callable]:
    """(a rollout, an update on it), as TRL's trainer samples and trains."""
    sampling = pack.module("trainers.sampling.settings").Sampling(
        width=8 * LATENT, height=8 * LATENT, steps=DRAWN_STEPS, guidance=1.0, prompts_per_iteration=BATCH,
        images_per_prompt=BATCHES, batch_size=BATCH, transition="ddim", noise_level=1.0)  # fmt: skip
    return likelihood_iteration(made, prompts(BATCH), vae(), sampling, pack.module("trainers.ddpo").DDPO(watch_kl=False))


def vae():
    return pack.module("tests.unit.trainers.policy.small_models").small_vae("sd15")


def likelihood_iteration(made, texts, vae, sampling, method) -> tuple[Callable, Callable]:
    """(a rollout, an update on it, with advantages at random)."""
    rollouts, methods = pack.module("trainers.sampling.rollout"), pack.module("trainers.methods")
    drawn = rollouts.rollout(made, texts, vae, sampling)
    count = len(drawn.index)
    feedback = pack.module("trainers.feedback.advantages").Advantages(
        values=torch.randn(count, generator=torch.Generator().manual_seed(1)).double(), used=torch.ones(count, dtype=torch.bool),
        groups=drawn.index, stats={}, memory=None)  # fmt: skip
    trainer = methods.Trainer(method, pack.module("trainers.engine.update").Optimizer(updates=1))
    return (
        lambda: rollouts.rollout(made, texts, vae, sampling),
        lambda: methods.train_step(made, drawn, feedback, trainer),
    )


def iterations_of_flow_grpo() -> list[Measure]:
    """A rollout with its decoding, which theirs leave out here, and an update of all random steps; nothing without a checkout."""
    found = []
    for name, steps in flow.peers():
        script = flow.Script(steps, flow.network())
        what = f"against {name}, {flow.BATCH * flow.BATCHES} images of {flow.STEPS} steps"
        peer = Iteration(script.transformer, script.roll, script.update)
        found += beside(peer, our_flow_grpo(), "Flow-GRPO", what, (1.2, 1.05, 1.1))
    return found


def our_flow_grpo() -> Iteration:
    """Of an SD3 of the host in the same shape."""
    policies, models = pack.module("trainers.policy", host=True), pack.module("tests.unit.trainers.policy.small_models")
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD3({
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": flow.DEPTH, "input_size": None, "adm_in_channels": TEXT,
        "qk_norm": "rms", "num_blocks": flow.DEPTH, "x_block_self_attn_layers": [], "pos_embed_scaling_factor": None,
        "pos_embed_max_size": flow.SIDE, "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 64 * flow.HEADS}}})  # fmt: skip
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    models.random_weights(model.diffusion_model, 0)
    patched = comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
    made = policies.create_policy(patched, policies.Recipe(rank=flow.RANK, alpha=2.0 * flow.RANK, targets="attention"))
    sampling = pack.module("trainers.sampling.settings").Sampling(
        width=8 * flow.SIDE, height=8 * flow.SIDE, steps=flow.STEPS, guidance=1.0, prompts_per_iteration=flow.BATCH,
        images_per_prompt=flow.BATCHES, batch_size=flow.BATCH, transition="flow_sde", noise_level=flow.NOISE,
        noisy_steps=0, window="fixed")  # fmt: skip
    method = pack.module("trainers.flow_grpo").FlowGRPO(watch_kl=False)
    return Iteration(
        model.diffusion_model, *likelihood_iteration(made, prompts(flow.BATCH), models.PlainVAE(), sampling, method)
    )


def our_dpo(made, latents: torch.Tensor) -> Callable:
    """One update on these pairs, [2, N, C, H, W], at one noise level."""
    methods, sigmas_of = pack.module("trainers.diffusion_dpo"), pack.module("trainers.policy.levels").sigmas_of
    count, rows = latents.shape[1], torch.arange(latents.shape[1])
    rollout = pack.module("trainers.sampling.rollout").Rollout(
        latents=latents.flatten(0, 1), images=torch.zeros(2 * count, 8, 8, 3), prompts=prompts(), index=rows.repeat(2),
        seeds=torch.arange(2 * count), guidance=1.0, trajectory=None, batch_size=2 * count,
        sigmas=sigmas_of(made.model.get_model_object("model_sampling"), "simple", 20))  # fmt: skip
    pairs = pack.module("trainers.feedback.pairs").Preferences(rows, rows + count, torch.ones(count).double(), rows, {})
    optimizer = pack.module("trainers.engine.update").Optimizer(updates=1)
    return lambda: methods.train_dpo(made, rollout, pairs, methods.DiffusionDPO(levels=1), optimizer)


def data() -> tuple[torch.Tensor, list]:
    """Eight latents and their conditionings."""
    return torch.randn(8, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(4)), list(prompts().positive)


def train_lora(batch: int) -> tuple[Callable, torch.nn.Module, int]:
    """(so many steps of the host's node, its network, the layers that it trains)"""
    pack.module("trainers.policy", host=True)
    from comfy_extras.nodes_train import TrainLoraNode

    latents, conditionings = data()
    model, trained = patcher(), [0]
    wanted = {
        "model": [model], "latents": [{"samples": latent[None]} for latent in latents], "positive": conditionings,
        "batch_size": [batch], "steps": [STEPS], "grad_accumulation_steps": [1], "learning_rate": [1e-4], "rank": [RANK],
        "optimizer": ["AdamW"], "loss_function": ["MSE"], "seed": [0], "training_dtype": ["fp32"], "lora_dtype": ["fp32"],
        "algorithm": ["LoRA"], "gradient_checkpointing": [False], "existing_lora": ["[None]"], "checkpoint_depth": [1],
        "offloading": [False], "bucket_mode": [False], "bypass_mode": [False], "quantized_backward": [False],
    }  # fmt: skip
    run = TrainLoraNode.execute
    known = {name: wanted[name] for name in inspect.signature(run).parameters if name in wanted}

    def steps() -> None:
        with torch.inference_mode():
            answer = run(**known)
        weights = next(each for each in answer.args if isinstance(each, dict) and all(isinstance(k, str) for k in each))
        trained[0] = len([name for name in weights if name.endswith(("lora_up.weight", "lora_B.weight"))])

    steps()
    return steps, model.model.diffusion_model, trained[0]


def regression(batch: int) -> tuple[Callable, torch.nn.Module, int]:
    """So many updates of reward-weighted regression on the same data."""
    policies = pack.module("trainers.policy", host=True)
    made = policies.create_policy(patcher(), policies.Recipe(rank=RANK, alpha=1.0, targets=EVERYWHERE))
    latents, _ = data()
    rows = torch.arange(batch * STEPS) % len(latents)
    steps = updates(made, prompts(), latents[rows], rows, batch, STEPS)
    return steps, made.model.model.diffusion_model, len(made.bank) // 2

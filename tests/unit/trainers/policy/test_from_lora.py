"""A LoRA as the beginning of a policy: it is the LoRA that the host's loader would apply, whole, or refused in words."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.lora
import comfy.sd
import pytest
import torch
from one_answer import host_answer, inputs, train_a_little
from posttrain.tests.unit.trainers.rollouts import SMALL, feedback, made
from posttrain.trainers.engine.update import Optimizer, update
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, open_policy
from posttrain.trainers.policy.from_lora import read_lora
from posttrain.trainers.policy.kinds import BIAS, WEIGHT
from posttrain.trainers.policy.value import policy_from_lora
from posttrain.trainers.run import RunPlan, Session
from posttrain.trainers.sampling.rollout import rollout
from small_models import ARCHITECTURES, BUILD, OWN_TEXT, SIZE, PlainVAE, conditioning, prompts_for, small_model, trained_policy


def random_pair(out: int, into: int, rank: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.randn(out, rank, generator=generator) * 0.1, torch.randn(rank, into, generator=generator) / into**0.5)


def sliced(kind: str, **shape) -> str:
    """The same network in the proportions of the published one, which the host's map of slices takes for granted."""

    def build():
        config = BUILD[kind]()
        config.unet_config.update(shape)
        return config

    name = f"{kind}, as published"
    BUILD[name], SIZE[name], OWN_TEXT[name] = build, SIZE[kind], lambda seed, tokens: conditioning(kind, seed, tokens)
    return name


FLUX, LUMINA = sliced("flux", mlp_ratio=4.0), sliced("lumina", n_kv_heads=4)
KINDS = [*(kind for kind in ARCHITECTURES if kind not in ("flux", "lumina")), FLUX, LUMINA]
STYLES = {
    "kohya": ("{}.lora_up.weight", "{}.lora_down.weight"),
    "peft": ("{}.lora_B.weight", "{}.lora_A.weight"),
    "peft, named": ("{}.lora_B.default.weight", "{}.lora_A.default.weight"),
    "diffusers": ("{}_lora.up.weight", "{}_lora.down.weight"),
    "diffusers, newer": ("{}.lora.up.weight", "{}.lora.down.weight"),
    "transformers": ("{}.lora_linear_layer.up.weight", "{}.lora_linear_layer.down.weight"),
    "mochi": ("{}.lora_B", "{}.lora_A"),
}


def names_of(model) -> dict[str, object]:
    """Every name under which the host knows a linear layer of this model, or a slice of one."""
    weights = model.model.state_dict()
    found = comfy.lora.model_lora_keys_unet(model.model, {})
    key = {name: target if isinstance(target, str) else target[0] for name, target in found.items()}
    return {
        name: target
        for name, target in found.items()
        if key[name].endswith(".weight") and key[name] in weights and weights[key[name]].ndim == 2
    }


def file_by(model, wanted, style: str = "kohya", alpha=lambda rank: 0.5 * rank) -> dict[str, torch.Tensor]:
    """A LoRA file under the host's names that ``wanted`` picks, its ranks different from layer to layer."""
    generator, weights, tensors, seen = torch.Generator().manual_seed(3), model.model.state_dict(), {}, set()
    up, down = STYLES[style]
    for name, target in names_of(model).items():
        if not wanted(name) or target in seen:
            continue
        seen.add(target)
        key, offset = (target, None) if isinstance(target, str) else target[:2]
        out, into = weights[key].shape
        sizes = [out, into]
        if offset is not None:
            sizes[offset[0]] = offset[2]
        rank = 1 + len(seen) % 4
        b, a = random_pair(*sizes, rank, generator)
        tensors |= {up.format(name): b, down.format(name): a}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha(rank)))
    return tensors


def check_is_the_hosts(model, kind: str, tensors, partly: bool = False):
    policy = policy_from_lora(model, read_lora(model, tensors, partly), anchored=True)
    x, sigma = inputs(kind)
    loaded, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0)
    with open_policy(policy) as net:
        on = net.denoise(x, sigma, prompts_for(kind), [0, 0], 1.0, net.to_device(policy.bank))
        off = net.denoise(x, sigma, prompts_for(kind), [0, 0], 1.0, None)
    expected, base = host_answer(loaded, kind, x, sigma, 1.0), host_answer(model, kind, x, sigma, 1.0)
    assert (expected - base).abs().max() > 1e-2
    torch.testing.assert_close(on, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(on, off), "the anchor is the LoRA as it came"
    exported, _ = comfy.sd.load_lora_for_models(model, None, lora_state_dict(policy), 1.0, 0)
    torch.testing.assert_close(host_answer(exported, kind, x, sigma, 1.0), expected, rtol=1e-4, atol=1e-4)
    return policy


PREFIXES = {
    "kohya": "lora_unet_",
    "ComfyUI": "diffusion_model.",
    "diffusers": "unet.",
    "diffusers' transformer": "transformer.",
    "OneTrainer": "lora_transformer_",
    "SimpleTuner": "lycoris_",
    "peft": "base_model.model.",
}
KNOWN = [
    (kind, program)
    for kind in KINDS
    for program in PREFIXES
    if any(name.startswith(PREFIXES[program]) for name in names_of(small_model(kind)))
]


@pytest.mark.parametrize("kind, program", KNOWN)
def test_it_begins_as_what_the_host_would_load(kind, program):
    """Under every family of names that the host has for an architecture; fused layers come in slices."""
    model = small_model(kind)
    tensors = file_by(model, lambda name: name.startswith(PREFIXES[program]))
    policy = check_is_the_hosts(model, kind, tensors)
    assert policy.recipe.rank == max(member.rank for member in policy.members().values())
    assert len({member.rank for member in policy.members().values()}) > 2


def test_all_programs_are_tried():
    assert {program for _, program in KNOWN} == set(PREFIXES) and len(KNOWN) > 15


@pytest.mark.parametrize("style", STYLES)
def test_every_spelling_of_the_two_matrices(style):
    model = small_model("sd15")
    tensors = file_by(model, lambda name: name.startswith("diffusion_model."), style, alpha=None)
    policy = check_is_the_hosts(model, "sd15", tensors)
    assert all(member.scale == 1 for member in policy.members().values()), "without an alpha it is the rank"


def test_slices_of_different_strength_are_one_layer():
    model, alphas = small_model(FLUX), iter(range(1, 1000))
    tensors = file_by(model, lambda name: name.startswith("transformer."), alpha=lambda rank: next(alphas) % 5 + 0.5)
    policy = check_is_the_hosts(model, FLUX, tensors)
    fused = [name for name in policy.members() if name.endswith("qkv")]
    assert fused and all(policy.members()[name].rank >= 3 for name in fused)


def test_convolutions_come_as_maps_as_matrices_or_in_three_parts():
    model, generator, tensors = small_model("sd15"), torch.Generator().manual_seed(3), {}
    convolutions = [name for name, m in model.model.diffusion_model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    for number, name in enumerate(convolutions):
        out, into, high, wide = model.model.diffusion_model.get_submodule(name).weight.shape
        key, rank = f"lora_unet_{name.replace('.', '_')}", 2
        b, a = random_pair(out, into * high * wide, rank, generator)
        if number % 3 == 0:
            a, b = a.view(rank, into, high, wide), b.view(out, rank, 1, 1)
        if number % 3 == 1:
            a = a.view(rank, into, high, wide)[:, :, :1, :1].contiguous()
            tensors[f"{key}.lora_mid.weight"] = torch.randn(rank, rank, high, wide, generator=generator)
        tensors |= {f"{key}.lora_up.weight": b, f"{key}.lora_down.weight": a, f"{key}.alpha": torch.tensor(1.0)}
    assert len(convolutions) > 6
    check_is_the_hosts(model, "sd15", tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_what_train_lora_changes_besides_comes_along_and_is_trained(kind):
    """Differences of norms and biases; where the policy is off, they are off too."""
    model, generator = small_model(kind), torch.Generator().manual_seed(3)
    tensors = file_by(model, lambda name: name.startswith("diffusion_model."), alpha=None)
    network = model.model.diffusion_model
    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm)) and module.weight is not None:
            tensors[f"diffusion_model.{name}.diff"] = 0.2 * torch.randn(module.weight.shape, generator=generator)
        if getattr(module, "bias", None) is not None and hasattr(module, "weight_function"):
            tensors[f"diffusion_model.{name}.diff_b"] = 0.2 * torch.randn(module.bias.shape, generator=generator)
    assert any(key.endswith(".diff_b") for key in tensors)
    policy = check_is_the_hosts(model, kind, tensors)
    parts = {part for member in policy.members().values() for part in member.parts}
    assert BIAS in parts and (WEIGHT in parts) == any(key.endswith(".diff") for key in tensors)
    before = policy.bank
    after = train_a_little(policy, kind).bank
    for part in parts:
        assert any(not torch.equal(before[key], after[key]) for key in before if key.endswith(part)), part


def test_without_an_anchor_the_reference_is_the_model():
    model = small_model("sd3")
    lora = read_lora(model, file_by(model, lambda name: name.startswith("diffusion_model.")))
    policy = policy_from_lora(model, lora, anchored=False)
    x, sigma = inputs("sd3")
    with open_policy(policy) as net:
        off = net.denoise(x, sigma, prompts_for("sd3"), [0, 0], 1.0, None)
        on = net.denoise(x, sigma, prompts_for("sd3"), [0, 0], 1.0, net.to_device(policy.bank))
    assert torch.equal(off, host_answer(model, "sd3", x, sigma, 1.0)) and not torch.equal(on, off)


def test_training_moves_the_policy_and_not_its_anchor():
    model = small_model("sd3")
    policy = policy_from_lora(model, read_lora(model, file_by(model, lambda name: "attn" in name)), anchored=True)
    first = {key: value.clone() for key, value in policy.bank.items()}
    trained = train_a_little(policy, "sd3")
    assert any(not torch.equal(trained.bank[key], first[key]) for key in first)
    assert all(torch.equal(trained.anchors["reference"][key], first[key]) for key in first)


def test_a_resumed_run_keeps_the_anchor_that_it_began_with():
    model = small_model("sd3")
    tensors = file_by(model, lambda name: "attn" in name)
    fresh = policy_from_lora(model, read_lora(model, tensors), anchored=True)
    half = train_a_little(fresh, "sd3")
    # Train LoRA in the same graph draws from PyTorch's own generator and answers otherwise the next time
    other = {key: value + 0.01 if key.endswith("weight") else value for key, value in tensors.items()}
    again = policy_from_lora(model, read_lora(model, other), anchored=True).with_state(*half.state())
    straight, resumed = train_a_little(half, "sd3"), train_a_little(again, "sd3")
    ours, theirs = straight.state()[0], resumed.state()[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    alone = policy_from_lora(model, read_lora(model, tensors), anchored=False).with_state(*half.state())
    assert alone.anchors == {}, "who asks for the model alone gets it"


def broken(model, kind: str) -> dict[str, torch.Tensor]:
    """A LoRA file that cannot be trained, by what is wrong with it."""
    tensors = file_by(model, lambda name: name.startswith("diffusion_model."))
    name = next(key for key in tensors if key.endswith("lora_up.weight")).removesuffix(".lora_up.weight")
    out, into = (tensors[f"{name}.lora_up.weight"].shape[0], tensors[f"{name}.lora_down.weight"].shape[1])
    whole = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
    square = torch.ones(2, 2)
    hadamard = {f"{name}.hada_{part}": square for part in ("w1_a", "w1_b", "w2_a", "w2_b")}
    return {
        "NaN": lambda: tensors | {f"{name}.lora_up.weight": torch.full((out, 2), float("nan"))},
        "inf": lambda: tensors | {f"{name}.lora_up.weight": torch.full((out, 2), float("inf"))},
        "no LoRA": lambda: {"model.weight": square},
        "empty": dict,
        "text": lambda: {
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": square,
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": square,
        },
        "no tensors": lambda: {"a": 1},
        "GLoRA": lambda: whole | {f"{name}.{part}.weight": square for part in ("a1", "a2", "b1", "b2")},
        "BOFT": lambda: whole | {f"{name}.oft_blocks": torch.zeros(1, 2, 2, 2)},
        "DoRA": lambda: tensors | {f"{name}.dora_scale": torch.ones(out, 1)},
        "LoHa and DoRA": lambda: whole | hadamard | {f"{name}.dora_scale": torch.ones(out, 1)},
        "LoHa in three parts": lambda: whole | hadamard | {f"{name}.hada_{part}": square for part in ("t1", "t2")},
        "LoKr in three parts": lambda: whole | {f"{name}.lokr_{part}": square for part in ("w1", "w2_a", "w2_b", "t2")},
        "OFT with a rescale": lambda: (
            whole | {f"{name}.oft_blocks": torch.zeros(out // 4, 4, 4), f"{name}.rescale": torch.ones(out, 1)}
        ),
        "full difference": lambda: whole | {f"{name}.diff": torch.ones(out, into)},
        "replaced": lambda: whole | {f"{name}.set_weight": torch.ones(out, into)},
        "size of its layer": lambda: tensors | {f"{name}.reshape_weight": torch.tensor([out + 8, into])},
        "alpha 0": lambda: tensors | {f"{name}.alpha": torch.tensor(0.0)},
    }[kind]()


WORDS = {
    "NaN": "holds NaN or infinite",
    "inf": "holds NaN or infinite",
    "no LoRA": "it holds no LoRA",
    "empty": "it holds no LoRA",
    "text": "1 layers for a text encoder",
    "no tensors": "weights are needed",
    "full difference": "is a full difference",
    "replaced": r"is replaced \(set\)",
    "size of its layer": "changes the size of its layer",
    "alpha 0": "has alpha 0",
    "GLoRA": "is a GLoRA, which the host cannot train",
    "BOFT": "is a BOFT, which the host cannot train",
    "DoRA": "is a DoRA; a training begins from a LoRA or its relatives",
    "LoHa and DoRA": "is a DoRA; a training begins from a LoRA or its relatives",
    "LoHa in three parts": "is a LoHa of a convolution in three parts",
    "LoKr in three parts": "is a LoKr of a convolution in three parts",
    "OFT with a rescale": "is an OFT with a rescale",
}


@pytest.mark.parametrize("what", WORDS)
def test_what_cannot_be_trained_is_named(what):
    model = small_model("sd3")
    tensors = broken(model, what)
    with pytest.raises(ValueError, match=f"^lora: .*{WORDS[what]}"):
        read_lora(model, tensors)


def test_one_of_another_architecture_names_both():
    flux = file_by(small_model(FLUX), lambda name: name.startswith("transformer."))
    with pytest.raises(ValueError, match=r"made for Flux .*your model is SD3\.5, told by"):
        read_lora(small_model("sd3"), flux, partly=True)
    with pytest.raises(ValueError, match=r"made for sd_xl \(so its file says\), and your model"):
        read_lora(small_model("sd3"), flux, metadata={"ss_base_model_version": "sd_xl"})


def test_the_same_names_with_other_sizes_are_another_architecture():
    tensors = file_by(small_model("sd15"), lambda name: name.startswith("diffusion_model.") and "attn2.to_k" in name)
    wide = {key: torch.ones(len(value), 2048) if "lora_down" in key else value for key, value in tensors.items()}
    with pytest.raises(ValueError, match=r"made for SDXL \(told by its cross-attention\)"):
        read_lora(small_model("sd15"), wide)


def test_one_that_fits_in_part_goes_on_only_if_asked_to():
    model = small_model("sd3")
    tensors = file_by(model, lambda name: name.startswith("diffusion_model."))
    names = sorted({key.removesuffix(".lora_up.weight") for key in tensors if key.endswith("lora_up.weight")})
    strange = {
        f"{names[0]}x.{part}": value
        for part, value in (("lora_up.weight", torch.ones(8, 2)), ("lora_down.weight", torch.ones(2, 8)))
    }
    tensors |= strange | {f"{names[1]}.lora_up.weight": torch.ones(3, 2), f"{names[1]}.lora_down.weight": torch.ones(2, 3)}
    tensors |= {f"{names[2]}.dora_scale": torch.ones(1), f"{names[3]}.lora_B.bias": torch.ones(3)}
    with pytest.raises(ValueError, match=f"{len(names) - 2} of {len(names) + 2} layers can be trained .*'partly'"):
        read_lora(model, tensors)
    lora = read_lora(model, tensors, partly=True)
    assert (lora.found, lora.layers) == (len(names) - 2, len(names) + 2) and len(lora.members) == len(names) - 2
    assert f"{len(names) - 2} of {len(names) + 2} layers" in lora.words


def test_a_text_encoders_part_is_left_out_and_said():
    model = small_model("sd3")
    tensors = file_by(model, lambda name: name.startswith("lora_unet_"))
    tensors |= {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(2, 2),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2),
    }
    assert "1 more are for the text encoder" in read_lora(model, tensors).words


def test_nothing_is_touched():
    """Neither the model nor what came in, whether it is read or refused; weights made in inference mode are taken."""
    model = small_model("sd3")
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    with torch.inference_mode():
        tensors = {key: value * 1 for key, value in file_by(model, lambda name: name.startswith("diffusion_model.")).items()}
        policy = policy_from_lora(model, read_lora(model, tensors), anchored=False)
        with pytest.raises(ValueError):
            read_lora(model, broken(model, "DoRA"))
    kept = {key: value.clone() for key, value in tensors.items()}
    train_a_little(policy, "sd3")
    assert all(torch.equal(before[key], value) for key, value in model.model.state_dict().items())
    assert all(torch.equal(kept[key], tensors[key]) for key in kept) and not model.patches


def test_half_precision_files_are_exact():
    model = small_model("sd3")
    tensors = {key: value.bfloat16() for key, value in file_by(model, lambda name: name.startswith("diffusion_model.")).items()}
    lora = read_lora(model, tensors)
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    layer = key.removeprefix("diffusion_model.").removesuffix(".lora_up.weight")
    assert torch.equal(lora.bank[f"{layer}.lora_B"], tensors[key].float())


def test_our_own_export_comes_back_bit_for_bit():
    policy = trained_policy("sd15")
    lora = read_lora(policy.model, lora_state_dict(policy))
    assert lora.bank.keys() == policy.bank.keys() and all(torch.equal(lora.bank[key], policy.bank[key]) for key in lora.bank)
    assert lora.members == policy.members()
    assert create_policy(policy.model, Recipe(rank=2)).members() != lora.members


@pytest.mark.parametrize("anchored", [True, False])
def test_a_training_starts_at_ratio_one_and_at_its_anchor_with_no_kl(anchored):
    model = small_model("sd3")
    begun = policy_from_lora(model, read_lora(model, file_by(model, lambda name: "attn" in name)), anchored)
    policy, run = made("sd3", begun)
    trainer = Trainer(FlowGRPO(beta=0.1), Optimizer(learning_rate=1e-3))
    first = train_step(policy, run, feedback(run), trainer)
    assert first.metrics["updates"] == 1 and first.metrics["ratio_largest_change"] == 0
    assert (first.metrics["kl"] == 0) == anchored
    run = rollout(first, prompts_for("sd3"), PlainVAE(), SMALL, 1)
    assert train_step(first, run, feedback(run), trainer).metrics["kl"] > 0


@pytest.mark.parametrize("kind", ["sd15", FLUX])
def test_recomputed_activations_give_the_same_step(kind):
    """Of the policy and of its anchor, which is on wherever no weights are chosen."""
    model, steps = small_model(kind), []
    tensors = file_by(model, lambda name: name.startswith("diffusion_model."))
    for name, module in model.model.diffusion_model.named_modules():
        if getattr(module, "bias", None) is not None and hasattr(module, "weight_function"):
            tensors[f"diffusion_model.{name}.diff_b"] = torch.full(module.bias.shape, 0.1)
    policy = policy_from_lora(model, read_lora(model, tensors), anchored=True)
    x, sigma = inputs(kind)

    def evaluate(net, bank, micro):
        answer, anchor = (net.denoise(x, sigma, prompts_for(kind), [0, 1], 1.0, each) for each in (bank, None))
        return (answer - 0.9 * anchor).square().mean(), {}

    for low_memory in (False, True):
        optimizer = Optimizer(learning_rate=1e-2, low_memory=low_memory)
        steps.append(update(policy, [[SimpleNamespace(size=2)]], evaluate, optimizer).optimizer)
    moments = [key for key in steps[0] if key.endswith(".exp_avg")]
    assert len(moments) == len(policy.bank) and any(steps[0][key].abs().max() > 0 for key in moments)
    for key in moments:
        torch.testing.assert_close(steps[1][key], steps[0][key], rtol=1e-3, atol=1e-6)


def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path):
    """Through its folder, although the LoRA in the graph is made anew, and answers otherwise, when it goes on."""
    model = small_model("sd3")
    tensors = file_by(model, lambda name: "attn" in name)
    other = {key: value + 0.01 if key.endswith("weight") else value for key, value in tensors.items()}

    def trained(name, iterations, tensors):
        policy = policy_from_lora(model, read_lora(model, tensors), anchored=True)
        plan = RunPlan(name, iterations, save_every=1)
        with Session(tmp_path, plan, policy, {"a": 1}, lambda kind, **data: None, cancelled=(), paused=()) as session:
            while not session.done:
                session.advance(train_a_little(session.policy, "sd3"))
        return session.policy.state()[0]

    straight = trained("straight", 3, tensors)
    trained("stopped", 1, tensors)
    resumed = trained("stopped", 3, other)
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[key], resumed[key]) for key in straight)


def file_of_kind(model, kind: str, alpha: float | None) -> dict[str, torch.Tensor]:
    """As the host's Train LoRA writes it, over every linear layer and convolution."""
    policy = create_policy(model, Recipe(rank=4, alpha=3.0, targets="all linear layers and convolutions", kind=kind))
    random = torch.Generator().manual_seed(5)
    for value in policy.bank.values():
        value.add_(torch.randn(value.shape, generator=random) * 0.05)
    tensors = lora_state_dict(policy)
    if alpha is None:
        return {key: value for key, value in tensors.items() if not key.endswith(".alpha")}
    return {key: torch.tensor(alpha) if key.endswith(".alpha") else value for key, value in tensors.items()}


@pytest.mark.parametrize("alpha", [2.0, None])
@pytest.mark.parametrize("which", ["sd15", "sd3"])
@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "OFT"])
def test_other_kinds_begin_as_they_are(kind, which, alpha):
    model = small_model(which)
    policy = check_is_the_hosts(model, which, file_of_kind(model, kind, alpha))
    assert {member.kind for member in policy.members().values()} == {kind}
    trained = train_a_little(policy, which)
    assert any(not torch.equal(trained.bank[key], policy.bank[key]) for key in policy.bank)


@pytest.mark.parametrize("parts", ["w1", "w2", "both"])
def test_a_lokr_whose_factors_are_products_is_multiplied_out(parts):
    model, random, tensors = small_model("sd3"), torch.Generator().manual_seed(5), {}
    for name in [
        key.removesuffix(".weight")
        for key, weight in model.model.state_dict().items()
        if "attn" in key and key.endswith(".weight") and weight.ndim == 2
    ]:
        out, into = model.model.state_dict()[f"{name}.weight"].shape
        for part, (rows, columns) in {"w1": (4, 4), "w2": (out // 4, into // 4)}.items():
            if parts in (part, "both"):
                a, b = random_pair(rows, columns, 2, random)
                tensors |= {f"{name}.lokr_{part}_a": a, f"{name}.lokr_{part}_b": b}
            else:
                tensors[f"{name}.lokr_{part}"] = torch.randn(rows, columns, generator=random) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(3.0)
    check_is_the_hosts(model, "sd3", tensors)


def test_kinds_may_stand_side_by_side_and_not_in_one_layer():
    model = small_model("sd3")
    loras = file_by(model, lambda name: name.startswith("diffusion_model.") and "mlp" in name)
    others = {key: value for key, value in file_of_kind(model, "LoHa", 2.0).items() if "attn" in key}
    policy = check_is_the_hosts(model, "sd3", loras | others)
    assert {member.kind for member in policy.members().values()} == {"LoRA", "LoHa"}
    assert "LoHa" in read_lora(model, loras | others).words

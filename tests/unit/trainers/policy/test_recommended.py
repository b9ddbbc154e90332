"""From a MODEL to its family, and from what nodes leave open to the numbers that a train step uses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import comfy.supported_models
import pytest
import torch
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.nodes.feedback.data import recommended_pairs
from posttrain.nodes.loop.settings import settings_of
from posttrain.nodes.model.export import card
from posttrain.nodes.model.policy import PTCreatePolicy
from posttrain.nodes.sampling.rollout import PTSampling
from posttrain.nodes.trainers.dpok import PTDPOK
from posttrain.nodes.trainers.flow_grpo import PTFlowGRPO
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import settled_trainer, train_step
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.policy.bank import STARTS
from posttrain.trainers.policy.recommended import family, recommended
from posttrain.trainers.recipes.families import family_of
from posttrain.trainers.recipes.table import row
from posttrain.trainers.sampling.recommended import settled_sampling
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_model

ROOT = Path(__file__).resolve().parents[4]
# what the small models lack of the real ones' signs
REAL = {"sd15": {"context_dim": 768}, "sdxl": {"context_dim": 2048}, "lumina": {"dim": 3840}}
TRAINERS = {name: node for name, node in NODE_CLASS_MAPPINGS.items() if node.RETURN_TYPES == ("PT_TRAINER",)}


def model_of(kind: str):
    model = small_model(kind)
    model.model.model_config.unet_config |= REAL.get(kind, {})
    return model


def defaults(node, kinds=("required", "optional")) -> dict:
    inputs = node.INPUT_TYPES()
    return {
        name: spec[1].get("default", spec[0][0])
        for kind in kinds
        for name, spec in inputs.get(kind, {}).items()
        if isinstance(spec[0], tuple) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN")
    }


@pytest.mark.parametrize(
    "kind, expected",
    [("sd15", "SD1.5"), ("sdxl", "SDXL"), ("sd3", "SD3.5"), ("flux", "Flux"), ("lumina", "Z-Image"), ("sd2_v", "other eps")],
)
def test_a_model_tells_its_family(kind, expected):
    found = family(model_of(kind))
    assert found.name == expected and ("no family" in found.words) == expected.startswith("other")


@pytest.mark.parametrize(
    "name, expected",
    [("SD15", "SD1.5"), ("SDXL", "SDXL"), ("SSD1B", "SDXL"), ("SDXLRefiner", "other eps"), ("SD20", "other eps"),
     ("SD3", "SD3.5"), ("Flux", "Flux"), ("FluxSchnell", "Flux"), ("Chroma", "other flow"), ("Lumina2", "other flow"),
     ("ZImage", "Z-Image"), ("QwenImage", "Qwen-Image"), ("WAN21_T2V", "other flow"), ("HiDream", "other flow")],
)  # fmt: skip
def test_the_signs_are_what_the_host_knows_its_models_by(name, expected):
    """Whatever host this is: its own table of models, as far as it has the model."""
    kind = getattr(comfy.supported_models, name, None)
    if kind is None:
        pytest.skip(f"this ComfyUI has no {name}")
    flow = expected not in ("SD1.5", "SDXL", "other eps")
    assert family_of(kind.unet_config | {"flow": flow, "latents": kind.latent_format.__name__}).name == expected


def test_qwen_image_is_told_by_its_network_and_wan_is_not_it():
    signs = {"flow": True, "latents": "Wan21"}
    assert family_of(signs | {"image_model": "qwen_image"}).name == "Qwen-Image"
    assert family_of(signs | {"image_model": "wan2.1"}).name == "other flow"


@pytest.mark.parametrize("kind, expected", [("lumina", "other flow"), ("sd15", "other eps")])
def test_without_its_signs_it_is_of_no_family_and_that_is_said(kind, expected):
    found = family(small_model(kind))
    assert found.name == expected and "no family" in found.words


@pytest.mark.parametrize("name", TRAINERS)
def test_a_new_node_takes_what_is_recommended_and_a_typed_number_stays(name):
    policy = create_policy(model_of("sd3"), Recipe(rank=4))
    (asked,) = TRAINERS[name]().run(**defaults(TRAINERS[name]))
    found, trainer = recommended(policy.model, type(asked.settings).__name__), settled_trainer(policy, asked)
    assert {"optimizer.learning_rate", "optimizer.updates"} <= set(asked.open)
    for each in asked.open:
        part, _, field = each.partition(".")
        assert getattr(getattr(trainer, {"method": "settings"}.get(part, part)), field) == found.values(part)[field]
    (typed,) = TRAINERS[name]().run(**defaults(TRAINERS[name]) | {"learning_rate": 2e-6, "updates_per_rollout": 7})
    optimizer = settled_trainer(policy, typed).optimizer
    assert (optimizer.learning_rate, optimizer.updates, optimizer.epsilon) == (2e-6, 7, 1e-8)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_workflow_from_before_trains_as_before(name):
    """Every number typed, and the new widget left out, as in an API graph, or at its default, as the page fills it in."""
    typed = {key: 0.5 if value == -1 else value for key, value in defaults(TRAINERS[name]).items()}
    typed |= {key: 3 for key in ("updates_per_rollout", "levels", "teacher_steps") if key in typed}
    old = {key: value for key, value in typed.items() if key != "adam_epsilon"}
    policy = create_policy(model_of("sd3"), Recipe(rank=4))
    for widgets in (old, old | {"adam_epsilon": -1.0}):
        (trainer,) = TRAINERS[name]().run(**widgets)
        assert set(trainer.open) <= {"optimizer.epsilon"}
        new = settled_trainer(policy, trainer)
        assert new.optimizer == Optimizer(learning_rate=0.5, updates=3, max_grad_norm=0.5, average=0.5)
        assert new.settings == trainer.settings


def test_a_trust_region_has_its_own_numbers():
    policy = create_policy(model_of("sd3"), Recipe(rank=4))
    (asked,) = PTFlowGRPO().run(**defaults(PTFlowGRPO) | {"trust": "guard"})
    trainer = settled_trainer(policy, asked)
    assert (trainer.settings.clip_range, trainer.optimizer.learning_rate) == (0, 1e-4)
    assert trainer.settings.trust == "guard"


def test_an_epsilon_belongs_to_the_rate_beside_it():
    policy = create_policy(model_of("flux"), Recipe(rank=4))
    node = TRAINERS["PTDRaFT"]
    (asked,) = node().run(**defaults(node))
    assert settled_trainer(policy, asked).optimizer.epsilon == 1e-10
    (typed,) = node().run(**defaults(node) | {"learning_rate": 1e-4})
    assert settled_trainer(policy, typed).optimizer.epsilon == 1e-8


def test_where_a_method_has_no_numbers_the_classic_ones_stand_in_and_the_reason_is_said():
    policy = create_policy(model_of("sd15"), Recipe(rank=4))
    (asked,) = PTFlowGRPO().run(**defaults(PTFlowGRPO))
    assert "take DDPO" in recommended(policy.model, "FlowGRPO").why_not
    assert settled_trainer(policy, asked).optimizer.learning_rate == row("DDPO", "SD1.5").values("optimizer")["learning_rate"]


def sampling(**typed) -> Sampling:
    return PTSampling().run(**defaults(PTSampling) | typed)[0]


def test_sampling_is_settled_for_the_policys_method():
    policy = create_policy(model_of("sd15"), Recipe(rank=4))
    usual, dpo = (settled_sampling(replace(policy, method=method), sampling()) for method in ("", "DiffusionDPO"))
    assert (usual.steps, usual.guidance, usual.transition, usual.open) == (50, 5.0, "ddim", ())
    assert (dpo.transition, dpo.prompts_per_iteration, dpo.images_per_prompt) == ("deterministic", 32, 4)
    mine = settled_sampling(policy, sampling(guidance=2.5, transition="auto", window="fixed"))
    assert (mine.guidance, mine.transition, mine.window, mine.steps) == (2.5, "auto", "fixed", 50)


def test_sampling_of_before_is_what_was_typed():
    typed = defaults(PTSampling, ("required",)) | {
        "steps": 10,
        "guidance": 1.0,
        "prompts_per_iteration": 8,
        "images_per_prompt": 8,
    }
    assert PTSampling().run(**typed)[0] == Sampling()


def created(model, **typed):
    return PTCreatePolicy().run(model=model, **defaults(PTCreatePolicy) | {"layers": "all linear layers"} | typed)


def test_a_new_policy_is_as_the_sources_have_it_and_says_so():
    out = created(model_of("sd3"))
    lora = out["result"][0].recipe
    assert (lora.rank, lora.alpha, lora.start) == (32, 64.0, "gaussian")
    *words, table = out["ui"]["text"]
    words = "\n".join(words)
    assert "SD3.5" in words and "rank 32, alpha 64, start gaussian" in words
    assert "learning rate\t0.0003\tyifan123/flow_grpo @ " in table


def test_a_trainer_that_is_wired_to_it_chooses_the_numbers():
    (trainer,) = TRAINERS["PTDiffusionDPO"]().run(**defaults(TRAINERS["PTDiffusionDPO"]))
    policy = created(model_of("sdxl"), trainer=trainer)["result"][0]
    assert (policy.recipe.rank, policy.recipe.alpha, policy.method) == (8, 8.0, "DiffusionDPO")


@pytest.mark.parametrize(
    "typed, expected",
    [
        ({"rank": 16, "alpha": 16.0}, (16, 16.0, "kaiming")),
        ({"rank": 16}, (16, 32.0, "gaussian")),
        ({"alpha": 8.0}, (32, 8.0, "kaiming")),
        ({"rank": 16, "alpha": 16.0, "start": "gaussian"}, (16, 16.0, "gaussian")),
    ],
)
def test_what_is_typed_stays_and_an_open_alpha_follows_a_typed_rank(typed, expected):
    recipe = created(model_of("sd3"), **typed)["result"][0].recipe
    assert (recipe.rank, recipe.alpha, recipe.start) == expected


def test_a_recommended_rank_fits_into_narrow_layers():
    policy = created(model_of("sd15"), trainer=TRAINERS["PTLCM"]().run(**defaults(TRAINERS["PTLCM"]))[0])["result"][0]
    assert row("LCM", "SD1.5").values("lora")["rank"] == 64 and policy.recipe.rank == 32 == policy.recipe.alpha
    with pytest.raises(ValueError, match="rank: 64 is larger"):
        created(model_of("sd15"), rank=64)
    with pytest.raises(ValueError, match="alpha: 0.0 is not possible"):
        created(model_of("sd15"), alpha=0.0)


def test_the_starts_are_pefts_and_the_old_one_is_as_it_was():
    bank = create_policy(small_model("sd3"), Recipe(rank=16, seed=5, targets="all linear layers")).bank
    generator = torch.Generator().manual_seed(5)
    for key, value in bank.items():
        if key.endswith("lora_A"):
            assert torch.equal(value, (torch.rand(value.shape, generator=generator) * 2 - 1) / value.shape[1] ** 0.5)
    for rank, width in ((4, 320), (32, 1536)):
        drawn = STARTS["gaussian"]((rank, width), torch.Generator().manual_seed(0))
        assert float(drawn.std()) == pytest.approx(1 / rank, rel=0.05)


def test_the_first_step_on_sd35_is_as_large_as_the_sources():
    """One layer of SD3.5's width, AdamW's own first step: RMS 1.06e-4 as the official code, 1.8e-5 as before."""

    def moved(start: str, rank: int, alpha: float) -> float:
        a = STARTS[start]((rank, 1536), torch.Generator().manual_seed(0))
        b = torch.zeros(1536, rank, requires_grad=True)
        adam = torch.optim.AdamW([b], lr=row("FlowGRPO", "SD3.5").values("optimizer")["learning_rate"], weight_decay=0)
        torch.manual_seed(1)
        (b @ a * torch.randn(1536, 1536)).sum().backward()
        adam.step()
        return float((b.detach() @ a * alpha / rank).square().mean().sqrt())

    lora = row("FlowGRPO", "SD3.5").values("lora")
    assert moved(lora["start"], lora["rank"], lora["alpha"]) == pytest.approx(1.06e-4, rel=0.03)
    assert moved("kaiming", 16, 16.0) == pytest.approx(1.77e-5, rel=0.03)


def test_pairs_of_an_iteration_are_as_many_as_the_updates_need():
    class Encoded:
        places = torch.zeros(3, 2)

    policy = create_policy(model_of("sd15"), Recipe(rank=4))
    assert [recommended_pairs(replace(policy, method=method), Encoded) for method in ("", "DiffusionDPO", "D3PO")] == [
        32,
        32,
        20,
    ]


def test_numbers_in_use_are_on_the_policy_in_its_state_and_in_the_loras_metadata():
    policy = create_policy(model_of("sd3"), Recipe(open=("rank", "alpha", "start"), targets="all linear layers"))
    small = sampling(width=64, height=64, prompts_per_iteration=1, images_per_prompt=4, steps=4, noisy_steps=1)
    made = rollout(policy, prompts_for("sd3"), PlainVAE(), small)
    scores = Scores(torch.arange(4.0, dtype=torch.float64), made.index, {"a": torch.arange(4.0)}, {"a": 1.0})
    (trainer,) = PTFlowGRPO().run(**defaults(PTFlowGRPO) | {"learning_rate": 1e-5})
    new = train_step(policy, made, advantages(scores, "batch"), trainer)
    used = new.numbers
    assert (used["method"], used["family"]) == ("FlowGRPO", "SD3.5")
    assert used["numbers"]["optimizer.learning_rate"] == 1e-5 and used["numbers"]["lora.alpha"] == 64
    assert used["numbers"]["sampling.transition"] == "flow_cps" and used["numbers"]["sampling.steps"] == 4
    assert {"lora.rank", "optimizer.updates", "sampling.guidance", "method.beta"} <= set(used["recommended"])
    assert not {"optimizer.learning_rate", "sampling.steps"} & set(used["recommended"])
    assert "learning rate 1e-05," in used["words"] and "updates per rollout 2*," in used["words"]
    assert json.loads(card(new, None, None)["posttrain.numbers"]) == used
    assert policy.with_state(*new.state()).numbers == used
    tensors, meta = new.state()
    assert policy.with_state(tensors, {key: meta[key] for key in meta if key not in ("numbers", "start")}).numbers == {}


def test_a_run_from_before_goes_on_whether_its_workflow_has_the_new_widgets_or_not():
    def graph(**more):
        return {
            "1": {"class_type": "PTCreatePolicy", "inputs": {"rank": 16, "alpha": 16.0} | more.get("policy", {})},
            "2": {"class_type": "PTFlowGRPO", "inputs": {"learning_rate": 3e-4} | more.get("trainer", {})},
            "3": {"class_type": "PTTrain", "inputs": {"policy": ["1", 0], "trainer": ["2", 0]}},
        }

    def known(**more):
        return settings_of(graph(**more), "3", ("policy", "trainer"))

    assert known(policy={"start": "auto"}, trainer={"adam_epsilon": -1}) == known()
    assert known(policy={"start": "kaiming"}, trainer={"adam_epsilon": 1e-8}) == known()
    assert known(trainer={"empty_prompts": 0.0, "reference_guidance": 1.0}) == known() != known(trainer={"scale": 0.5})
    assert known(policy={"start": "gaussian"}) != known() != known(trainer={"adam_epsilon": 1e-10})


def test_a_weight_of_the_reward_that_is_left_open_is_dpoks():
    (trainer,) = PTDPOK().run(**defaults(PTDPOK))
    new = settled_trainer(create_policy(model_of("sd15"), Recipe(rank=4)), trainer)
    assert (new.settings.reward_weight, new.settings.kl_weight, new.optimizer.max_grad_norm) == (1000.0, 0.45, 0.1)
    assert FlowGRPO().beta == 0


def test_the_chinese_texts_say_minus_one_where_it_is_the_default():
    words = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    asked = [
        (name, key)
        for name, node in NODE_CLASS_MAPPINGS.items()
        for kind in ("required", "optional")
        for key, spec in node.INPUT_TYPES().get(kind, {}).items()
        if "recommended" in spec[-1].get("tooltip", "") and spec[-1].get("default") in (-1, "recommended")
    ]
    assert len(asked) > 100
    assert not [each for each in asked if "推荐" not in words[each[0]]["inputs"][each[1]]["tooltip"]]

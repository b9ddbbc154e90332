"""Rollouts by other ComfyUIs: real servers on this machine, asked through their own routes, one of them killed in the middle."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from posttrain.nodes.prompts import encode_prompts
from posttrain.rewards.base.reward import score
from posttrain.rewards.rules.jpeg import JPEGReward
from posttrain.tests.host.spine_graph import same, spine, weights
from posttrain.tools.host import Host
from posttrain.toy.models import FILES, load_clip, load_model, load_vae
from posttrain.toy.prompts import prompt_set
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.policy.export import policy_as_model
from posttrain.trainers.policy.latents import from_latent_socket
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.servers.computers import Computers
from posttrain.trainers.servers.graph import Source, noise_seed
from posttrain.trainers.servers.rollout import rollout_by_computers

from nodes import KSampler

LAB_PACK = Path(__file__).with_name("lab_pack")
MODEL = "demo flow.safetensors"


def with_model(base: Path, name: str = MODEL, short: int = 0) -> Path:
    """The demo world's network among the model files. short: bytes that are missing at its end."""
    path = base / "models" / "diffusion_models" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = FILES["flow"].read_bytes()
        path.write_bytes(whole[: len(whole) - short])
    return base


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Two servers beside the one that trains, without the pack: they have the model's file and the node that loads it."""
    found = []
    for _ in range(2):
        base = with_model(tmp_path_factory.mktemp("other"))
        found.append(Host(base, "--disable-all-custom-nodes", "--whitelist-custom-nodes", LAB_PACK.name, packs=[LAB_PACK]))
    yield found
    for each in found:
        each.stop()


def defaults(host, kind: str) -> dict:
    """What the widgets of a node stand at."""
    inputs = host.get(f"/object_info/{kind}").json()[kind]["input"]
    return {
        name: spec[1]["default"]
        for part in inputs.values()
        for name, spec in part.items()
        if "default" in (spec[1:] or [{}])[0]
    }


def training(host, run: str, addresses: list[str] | None, iterations: int = 2, **changes) -> dict:
    """A small DiffusionNFT; addresses: of those who sample, None for this machine alone."""
    graph = spine(
        run,
        iterations,
        **{"4.transition": "deterministic", "4.steps": 10, "4.prompts_per_iteration": 6, "4.images_per_prompt": 4} | changes,
    )
    with_model(host.base)
    graph["22"] = {"class_type": "LabDemoModel", "inputs": {"model_name": MODEL}}
    graph["2"]["inputs"]["clip"], graph["3"]["inputs"]["model"] = ["22", 1], ["22", 0]
    graph["5"] = {"class_type": "PTNFT", "inputs": defaults(host, "PTNFT") | {"learning_rate": 1e-3, "warmup_steps": 0}}
    graph["20"] = {"class_type": "SaveLatent", "inputs": {"samples": ["7", 2], "filename_prefix": f"latents {run}"}}
    if addresses is not None:
        graph["21"] = {
            "class_type": "PTOtherComputers",
            "inputs": {
                "model": ["22", 0],
                "clip": ["22", 1],
                "addresses": "\n".join(addresses),
                "sampler": "euler",
                "lora_precision": "float32",
                "longest_wait": 60.0,
            },
        }
        graph["7"]["class_type"] = "PTRolloutOnComputers"
        graph["7"]["inputs"]["computers"] = ["21", 0]
    return graph


def latents(host, run: str) -> list:
    return [
        safetensors.torch.load_file(path)["latent_tensor"]
        for path in sorted((host.base / "output").glob(f"latents {run}_*.latent"))
    ]


def difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def asked(server: Host) -> int:
    return server.log_text().count("got prompt")


def test_other_computers_draw_what_this_one_draws(host, others):
    alone = host.run(training(host, "alone", None))
    shared = host.run(training(host, "shared", [each.url for each in others]))
    assert (alone.event, shared.event) == ("success", "success"), alone.text + shared.text
    assert [line.partition(": ")[2] for line in shared.outputs["21"]["text"]] == [
        f"ComfyUI {version(each)}, ready" for each in others
    ]
    here, there = (torch.stack(latents(host, run)) for run in ("alone", "shared"))
    # here several are computed at once, there one by one: the last digits differ, and a second iteration learns from that
    assert here.shape == there.shape and len(here) == 2 and (here - there).abs().max() < 1e-4
    assert difference(weights(host, "alone"), weights(host, "shared")) < 1e-4
    assert [asked(each) > 0 for each in others] == [True, True] and sum(map(asked, others)) == 12  # 6 prompts in 2 iterations
    for each in others:  # what is left there
        left = [path.stat().st_size for path in (each.base / "output").rglob("*.latent")]
        assert len(left) == asked(each) and set(left) == {16}
        assert len([path for path in (each.base / "output" / "loras").iterdir() if path.stat().st_size > 16]) <= 2


def test_with_the_same_sampler_an_iteration_is_the_local_one(others):
    """What KSampler draws in this process, an image at a time, beside what it draws there, for a policy that is trained already."""
    model, vae, clip = load_model("flow"), load_vae(), load_clip()
    prompts = encode_prompts(prompt_set(held_out=False), clip, "")
    policy = create_policy(model, Recipe(rank=4, alpha=4.0))
    policy = replace(
        policy,
        bank={
            name: torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) * 0.05
            for name, value in policy.bank.items()
        },
    )
    source = Source({"1": {"class_type": "LabDemoModel", "inputs": {"model_name": MODEL}}}, ("1", 0), ("1", 1))
    computers = Computers(tuple(each.url for each in others), model, source)
    settings = Sampling(steps=5, width=24, height=24, prompts_per_iteration=3, images_per_prompt=4, seed=5)
    there = rollout_by_computers(policy, prompts, vae, settings, computers, 2)
    here = replace(there, latents=drawn_here(policy, there))
    assert torch.equal(here.latents, there.latents) and len({float(each.sum()) for each in there.latents}) == 12
    assert not torch.allclose(
        there.latents,
        rollout_by_computers(create_policy(model, policy.recipe), prompts, vae, settings, computers, 2).latents,
        atol=1e-2,
    )  # the LoRA counts
    scores = score(JPEGReward(), there.images, there.prompts_of_samples(), there.index)
    feedback = advantages(scores, "group mean, global std")
    trained = [train_step(policy, made, feedback, Trainer(NFT(), Optimizer(learning_rate=1e-3))) for made in (here, there)]
    assert trained[0].metrics["updates"] > 0 and difference(trained[0].bank, trained[1].bank) < 1e-6
    assert difference(trained[0].bank, policy.bank) > 1e-4


def drawn_here(policy, made) -> torch.Tensor:
    sampler, found = KSampler(), []
    for row, seed in enumerate(made.seeds):
        positive = made.prompts.positive[int(made.index[row])]
        empty = {"samples": torch.zeros(1, *made.latents.shape[1:])}
        (latent,) = sampler.sample(
            policy_as_model(policy),
            noise_seed(int(seed)),
            len(made.sigmas) - 1,
            1.0,
            "euler",
            "simple",
            positive,
            made.prompts.negative,
            empty,
        )
        found.append(latent["samples"])
    return from_latent_socket(policy.model, {"samples": torch.cat(found)})


def points(host, run: str) -> list[dict]:
    file = host.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_images_are_drawn_while_the_policy_is_trained_and_a_run_that_was_cut_short_goes_on_with_the_same(host, others):
    """Going on, the images that were under way are drawn again, by the policy of one iteration before."""

    def behind(run: str, iterations: int) -> dict:
        graph = training(host, run, [each.url for each in others], iterations)
        graph["21"]["inputs"]["draw_images"] = "during the update"
        return graph

    before = sum(map(asked, others))
    whole = host.run(behind("behind", 4))
    assert whole.event == "success", whole.text
    assert [point["iterations_behind"] for point in points(host, "behind")] == [0, 1, 1, 1]
    assert sum(map(asked, others)) == before + 24  # 6 prompts in 4 iterations: none was drawn for nothing
    for iterations in (2, 4):
        part = host.run(behind("cut", iterations))
        assert part.event == "success", part.text
    assert same(weights(host, "behind"), weights(host, "cut")) and len(latents(host, "cut")) == 4
    on_policy = host.run(training(host, "on policy", [each.url for each in others], 4))
    assert on_policy.event == "success" and "iterations_behind" not in points(host, "on policy")[0]
    here, there = latents(host, "on policy"), latents(host, "behind")
    assert torch.equal(here[0], there[0]) and not torch.equal(here[1], there[1])


def test_who_takes_no_image_of_one_iteration_before_is_refused_before_anything_is_drawn(host, others):
    graph = training(host, "too old", [others[0].url])
    graph["21"]["inputs"]["draw_images"] = "during the update"
    graph["5"] = {"class_type": "PTDiffusionOPD", "inputs": {"teacher": ["30", 0], **defaults(host, "PTDiffusionOPD")}}
    graph["30"] = {"class_type": "PTTeacher", "inputs": defaults(host, "PTTeacher") | {"policy": ["3", 0]}}
    before, result = asked(others[0]), host.run(graph)
    assert result.event == "error" and "DiffusionOPD learns rightly only from images of the policy" in result.text, result.text
    assert asked(others[0]) == before


def test_one_that_is_killed_costs_no_image(host, others):
    """The run of the first test once more: the same LoRA, to the last bit."""
    before, killed, said = asked(others[1]), [], []

    def kill(message) -> None:
        if message["type"] == "posttrain.message":
            said.append(message["data"]["text"])
        if not killed and asked(others[1]) > before + 1:
            killed.append(asked(others[0]))
            others[1].kill()

    result = host.run(training(host, "killed", [each.url for each in others]), on_message=kill)
    assert result.event == "success" and killed and asked(others[0]) > killed[0], result.text
    for drawn, expected in zip(latents(host, "killed"), latents(host, "shared"), strict=True):
        assert torch.equal(drawn, expected)
    assert same(weights(host, "killed"), weights(host, "shared"))
    missed = [
        words for words in said if words.startswith(f"{others[1].url} could not draw its images, and the other computers")
    ]
    assert len(missed) == 1, said


def test_a_trainer_of_likelihoods_is_refused_by_name_before_anything_is_drawn(host, others):
    graph = training(host, "refused", [others[0].url])
    graph["5"] = spine("refused")["5"]
    before, result = asked(others[0]), host.run(graph)
    assert result.event == "error" and "FlowGRPO learns from the likelihoods of random steps" in result.text
    assert asked(others[0]) == before


def test_what_a_computer_lacks_is_said_before_the_training_begins(host, others):
    """The nodes that make the model, and the files that they name, by their sizes."""
    address, before = others[0].url, asked(others[0])
    graph = training(host, "lacks", [address])
    with_model(host.base, "mine.safetensors")
    graph["22"]["inputs"]["model_name"] = "mine.safetensors"
    assert "it has no model file mine.safetensors; put it there" in host.run(graph).text
    with_model(others[0].base, "mine.safetensors", short=8)
    assert "its model file mine.safetensors has" in host.run(graph).text
    answer = host.run(graph | {"22": spine("lacks")["1"]})
    assert f"addresses: {address}: it has no node PTDemoWorld; install there the pack that brings it" in answer.text
    assert asked(others[0]) == before


def test_a_cancel_takes_the_work_back(host, others):
    before = asked(others[0])
    graph = training(host, "cancelled", [others[0].url], **{"4.steps": 900})
    pressed = []

    def press() -> None:  # no message comes while a prompt's images are drawn elsewhere
        while asked(others[0]) == before:
            time.sleep(0.05)
        pressed.append(time.monotonic())
        host.cancel()

    threading.Thread(target=press, daemon=True).start()
    assert host.run(graph).event == "interrupted" and time.monotonic() - pressed[0] < 10
    until = time.monotonic() + 20
    while any(others[0].get("/queue").json().values()):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_where_all_are_lost_the_run_is_saved_and_ends_in_words(host, others):
    """The last test: no server is left."""
    before = asked(others[0])
    graph = training(host, "lost", [others[0].url], 3)

    def kill(_) -> None:
        if asked(others[0]) > before + 7 and others[0].process.poll() is None:
            others[0].kill()

    lost = host.run(graph, on_message=kill, timeout=60)
    assert lost.event == "error" and "none of the other computers is left" in lost.text, lost.text
    assert (host.base / "output" / "posttrain" / "spine lost" / "checkpoints").is_dir()
    start = host.run(training(host, "nobody", [each.url for each in others]), timeout=60)
    assert start.event == "error" and "no ComfyUI is there" in start.text and others[1].url in start.text


def version(server: Host) -> str:
    return server.get("/system_stats").json()["system"]["comfyui_version"]

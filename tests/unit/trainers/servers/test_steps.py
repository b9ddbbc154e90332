"""What other computers with this pack draw is what Rollout draws here, to the last bit, however it is dealt out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.prompts import Texts
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import BRANCHES, EACH_PROMPT, Sampling
from posttrain.trainers.servers.client import Lost
from posttrain.trainers.servers.computers import OWN_STEPS, Computers
from posttrain.trainers.servers.graph import SAVED, Source
from posttrain.trainers.servers.steps import (
    EVALUATIONS,
    LATENTS,
    STEPS_NODE,
    StepsDrawing,
    drawn_steps,
    random_steps,
    received_policy,
    sent_policy,
)
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=6, batch_size=4, seed=7)
POLICY = trained_policy("sd3")
PROMPTS = replace(prompts_for("sd3"), texts=Texts("nothing"))
SOURCE = Source({"1": {"class_type": "Loader", "inputs": {}}}, ("1", 0), ("1", 1))


def drawing(sampling: Sampling, iteration: int = 2, keep_means: bool = True, policy=POLICY) -> StepsDrawing:
    computers = Computers(("http://127.0.0.1:9",), policy.model, SOURCE, OWN_STEPS)
    shape = (16, 8, 8)
    return StepsDrawing(policy, policy.bank, PROMPTS, sampling, computers, shape, iteration, keep_means=keep_means)


def encoded(text: str):
    """As the text encoder of another computer would."""
    texts = [prompt.text for prompt in PROMPTS.prompts]
    return PROMPTS.negative if text == "nothing" else PROMPTS.positive[texts.index(text)]


def drawn(given: StepsDrawing, task: int, tmp_path) -> dict:
    """A task on another computer, and what is read of its answer."""
    graph = given._graph({"weights": "w.safetensors"}, task)
    inputs = graph[SAVED]["inputs"]
    assert graph["1"] == SOURCE.nodes["1"] and (graph[SAVED]["class_type"], inputs["model"], inputs["clip"]) == (
        STEPS_NODE,
        ["1", 0],
        ["1", 1],
    )
    content = given.form.body.partition(b'.safetensors"\r\n\r\n')[2].rpartition(b"\r\n--")[0]
    (tmp_path / "w.safetensors").write_bytes(content)
    policy = received_policy(given.policy.model, tmp_path / inputs["weights"])
    return given._read(safetensors.torch.save(drawn_steps(policy, inputs["negative"], inputs["job"], encoded)), task)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance": 3.0},
        {"window": "moves along", "noisy_steps": 1},
        {"window": EACH_PROMPT, "batch_size": 6},
        {"window": BRANCHES, "batch_size": 3},
        {"same_start": True, "first_noisy_step": 1, "batch_size": 6},
        {"transition": "deterministic"},
    ],
    ids=str,
)
def test_dealt_out_it_is_the_same_rollout(settings, tmp_path):
    sampling = replace(SMALL, **settings)
    given = drawing(sampling)
    tasks = -(-len(given.samples) // given.each)
    parts = [drawn(given, task, tmp_path) for task in reversed(range(tasks))][::-1]
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    here = rollout(POLICY, PROMPTS, PlainVAE(), sampling, 2)
    trajectory, left_out = random_steps(POLICY, given.samples, sampling, 2, True, values)
    shared = sampling.one_start  # the quiet way of several prompts is computed in other batches
    assert tasks > 1 and torch.allclose(values[LATENTS], here.latents, atol=1e-4 if shared else 0, rtol=0)
    assert torch.equal(given.samples.index, here.index) and torch.equal(given.samples.seeds, here.seeds)
    assert left_out == here.left_out and int(values[EVALUATIONS].sum()) == here.evaluations
    if here.trajectory is None:
        assert trajectory is None
        return
    for name in ("states", "log_probs", "means", "sigmas"):
        found, expected = getattr(trajectory, name), getattr(here.trajectory, name)
        assert torch.allclose(found, expected, atol=1e-4 if shared else 0, rtol=0), name
    assert (trajectory.transition, trajectory.strength) == (here.trajectory.transition, here.trajectory.strength)
    chosen = here.trajectory.chosen
    assert trajectory.chosen is None if chosen is None else torch.equal(trajectory.chosen, chosen)


@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "LoHa", "OFT"])
def test_a_policy_is_the_same_there_whatever_its_kind(kind, tmp_path):
    policy = create_policy(POLICY.model, Recipe(rank=4, alpha=2.0, kind=kind))
    (tmp_path / "w").write_bytes(sent_policy(policy, torch.float32))
    there = received_policy(policy.model, tmp_path / "w")
    assert there.recipe == policy.recipe and all(torch.equal(value, there.bank[key]) for key, value in policy.bank.items())


def test_without_means_none_come_back(tmp_path):
    assert "means" not in drawn(drawing(SMALL, keep_means=False), 0, tmp_path)


def test_what_is_no_answer_is_refused(tmp_path):
    given = drawing(SMALL)
    good = drawn(given, 0, tmp_path)
    for change, words in [
        ({"log_probs": good["log_probs"][:1]}, "random steps are"),
        ({"log_probs": good["log_probs"].double()}, "load the same model"),
        ({"more": good["log_probs"].clone()}, "load the same model"),
    ]:
        with pytest.raises(Lost, match=words):
            given._read(safetensors.torch.save(good | change), 0)
    with pytest.raises(Lost, match="are none"):
        given._read(b"no such thing", 0)


@pytest.mark.parametrize("job", ["", "[]", "{}", '{"sampling": {"steps": 0}}', json.dumps({"sampling": {"no": 1}})])
def test_a_job_that_is_none_is_refused_in_words(job):
    with pytest.raises(ValueError, match="job: it is none .* Rollout on Other Computers sends it"):
        drawn_steps(POLICY, "", job, encoded)


def test_weights_that_are_none_are_refused_in_words(tmp_path):
    (tmp_path / "w").write_bytes(safetensors.torch.save({"x": torch.zeros(1)}))
    for name in ("w", "nowhere"):
        with pytest.raises(ValueError, match="weights: they are no policy's"):
            received_policy(POLICY.model, tmp_path / name)

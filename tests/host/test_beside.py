"""The demo's templates with other packs installed and without them: bit for bit the same numbers and the same LoRA.

Which packs: develop.py test --beside FOLDER.
"""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from posttrain.tests.host.small_templates import small
from posttrain.tools.beside import asked, not_loaded
from posttrain.tools.host import PACK, Host
from posttrain.tools.training import every, with_defaults

# the reward's gradient with loop and export, likelihoods, pairs of pictures
NAMES = ("follow_a_rewards_gradient_draft", "learn_to_follow_prompts_flow_grpo", "learn_from_pairs_diffusion_dpo")
OF_THE_MACHINE = ("time", "seconds", "ram_gb", "vram_gb")  # and of what, in parts: "seconds_sampling"


@pytest.fixture(scope="module")
def packs():
    return asked() or pytest.skip("which packs? python develop.py test --beside FOLDER")


@pytest.fixture(scope="module")
def alone(packs, tmp_path_factory):
    """What the templates give without them."""
    with Host(tmp_path_factory.mktemp("alone")) as host:
        yield {name: trained(host, name) for name in NAMES}


@pytest.fixture(scope="module")
def beside(packs, alone, tmp_path_factory):
    """A server with them; ``alone`` has ended its own by then."""
    with Host(tmp_path_factory.mktemp("beside"), packs=packs) as host:
        yield host


def trained(host: Host, name: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The numbers of every iteration, and the LoRA."""
    graph = with_defaults(small(name), host.object_info())
    result = host.run(graph)
    assert result.event == "success", result.text
    (run,), (lora,) = every(graph, "PTLoopStart", "run_name"), every(graph, "PTSaveLora", "file_name")
    lines = (host.base / "output" / "posttrain" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = [{key: value for key, value in json.loads(line).items() if not key.startswith(OF_THE_MACHINE)} for line in lines]
    return numbers, safetensors.torch.load_file(host.base / "models" / "loras" / f"{lora}.safetensors")


def test_they_are_loaded_and_our_nodes_are_ours(packs, beside):
    assert not_loaded(beside.log_text()) == [], "a pack that is not loaded shows nothing"
    ours = {name: info["python_module"] for name, info in beside.object_info().items() if name.startswith("PT")}
    taken = {name: module for name, module in ours.items() if module != f"custom_nodes.{PACK}"}
    assert len(ours) > 80 and taken == {}, "another pack has nodes of our names"


@pytest.mark.parametrize("name", NAMES)
def test_a_template_gives_the_same_numbers(alone, beside, name):
    (numbers, lora), (before, expected) = trained(beside, name), alone[name]
    assert len(numbers) == 2 and all(line["updates"] > 0 and len(line) > 10 for line in numbers)
    assert numbers == before
    assert lora.keys() == expected.keys() and all(torch.equal(lora[key], expected[key]) for key in lora)

"""Files of diffusers' pipelines, of peft and under kohya's names, as the beginning of a policy, family by family."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("comfy.ldm.chroma_radiance", reason="older hosts than those of the small architectures")
from posttrain.tests.unit.trainers.policy.diffusers_families import TWINS  # noqa: E402
from posttrain.tests.unit.trainers.policy.diffusers_loras import (  # noqa: E402
    ALPHA,
    IN,
    RANK,
    as_diffusers_makes_it_kohyas,
    create_policy_from,
    read_here,
)


@pytest.mark.parametrize("save", IN)
@pytest.mark.parametrize("name", TWINS)
def test_a_policy_begins_as_the_network_is_there(name, save, tmp_path):
    """With an alpha that is not the rank, from metadata or adapter_config.json. At Lumina 2's small width diffusers has no
    converter, and a refusal never says that the model is what the LoRA is not for."""
    alpha = RANK if IN[save] is as_diffusers_makes_it_kohyas else ALPHA
    read = read_here(TWINS[name], IN[save], tmp_path, alpha, create_policy_from)
    if name == "Lumina 2":
        assert (
            "under names that ComfyUI does not know for this model" in read.refused
            and "made for" not in read.refused.split(";")[0]
        )
    elif name.startswith("PixArt") and read.refused:
        assert read.refused == "diffusers saves none for it"
    else:
        assert not read.refused and read.error <= 1e-4

"""What a rollout needs is what it then takes, and is said before it samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from posttrain.tests.unit.trainers.rollouts import SMALL
from posttrain.trainers.policy.latents import LARGE
from posttrain.trainers.sampling.need import GB, Need, check_room, rollout_need
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_vae, trained_policy


@pytest.mark.parametrize("keep_means", [True, False])
@pytest.mark.parametrize("changes", [{}, {"transition": "deterministic"}, {"first_noisy_step": 1, "noisy_steps": 2}])
def test_it_is_what_the_rollout_takes(changes, keep_means):
    told, calls = [], []
    prompts = prompts_for("sd3")
    run = rollout(
        trained_policy("sd3"),
        prompts,
        small_vae("sd3"),
        replace(SMALL, **changes),
        keep_means=keep_means,
        tell=lambda need: told.append((need, len(calls))),
        progress=lambda *_: calls.append(1),
    )
    ((need, before),) = told
    steps = run.trajectory
    assert before == 0 and need.images == run.images.nbytes and need.latents == 2 * run.latents.nbytes
    assert need.states == (0 if steps is None else steps.states.nbytes)
    assert need.means == (0 if steps is None or steps.means is None else steps.means.nbytes)
    drawn = {int(i) for i in run.index}
    assert need.encodings == sum(
        prompts.positive[i][0][0].nbytes + prompts.positive[i][0][1]["pooled_output"].nbytes for i in drawn
    )
    assert need.on_disk == 0 and need.in_ram == need.states + need.means + need.latents + need.images + need.encodings


@pytest.mark.parametrize("channels", [4, 16])
def test_a_large_rollout_holds_little_beside_what_trainers_read(channels):
    """24 prompts x 24 images at 1024 x 1024, 10 steps: they once took 28 GB with 16 channels."""
    settings = Sampling(prompts_per_iteration=24, images_per_prompt=24, steps=10)
    need = rollout_need((channels, 128, 128), settings, 100, 9, False, 1024 * 1024 * 12)
    read = need.states + need.latents // 2
    assert need.images > LARGE and need.on_disk == need.images and need.in_ram <= 1.2 * read
    assert f"{need.on_disk / GB:.1f} GB of images lie on the disk" in need.words()


def test_what_does_not_fit_is_refused_before_anything_is_sampled():
    calls = []
    huge = replace(SMALL, width=8192, height=8192, images_per_prompt=2048)
    with pytest.raises(
        ValueError, match=r"sampling: A rollout holds .* GB in memory: states .* Only .* GB are free. Take fewer prompts"
    ):
        rollout(trained_policy("sd3"), prompts_for("sd3"), PlainVAE(), huge, progress=lambda *_: calls.append(1))
    assert not calls


def test_encodings_are_there_already():
    need = Need(states=10, means=0, latents=5, images=5, encodings=1000)
    check_room(need, 20)
    with pytest.raises(ValueError, match="0.0 MB are free"):
        check_room(need, 19)

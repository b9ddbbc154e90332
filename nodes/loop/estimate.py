"""What a training will need, measured before it."""

from __future__ import annotations

from dataclasses import replace

from ..progress import node_progress
from ..sockets import MENU, POLICY, PROMPTS, REWARD, SAMPLING, TRAINER


class PTEstimate:
    DESCRIPTION = (
        "Says before a training what it needs: images and network evaluations of an iteration, minutes, and GB on the card. "
        "It makes a few images with your settings, trains on them as a trial and forgets all of it."
    )
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/7 Loop", "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("estimate",)
    OUTPUT_TOOLTIPS = ("What an iteration needs, in words.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "policy": (POLICY, {"tooltip": "The policy to train, from Create Policy."}),
                "prompts": (PROMPTS, {"tooltip": "From Encode Prompts."}),
                "vae": ("VAE", {"tooltip": "The model's VAE."}),
                "sampling": (SAMPLING, {"tooltip": "From Sampling Settings."}),
                "trainer": (TRAINER, {"tooltip": "An algorithm with its settings: Flow-GRPO, DDPO ..."}),
            },
            "optional": {
                "reward": (
                    REWARD,
                    {"tooltip": "Only for trainers through the reward (DRaFT ...); others are tried without scores."},
                )
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, policy, prompts, vae, sampling, trainer, reward=None, unique_id=None):
        from ...trainers.policy.meter import room_on

        found = estimate(policy, prompts, vae, sampling, trainer, reward, node_progress(unique_id))
        text = found.words(room_on(policy.model.load_device))
        return {"ui": {"text": [text]}, "result": (text,)}


def estimate(policy, prompts, vae, sampling, trainer, reward=None, progress=None):
    """The Forecast of a run with these settings; policy and settings are as they were. ValueError where a run would raise one."""
    from ...trainers.engine.dry_run import at_one_level, forecast
    from ...trainers.methods import adopted, cost_of, goes_through_reward, settled_trainer, table_name
    from ...trainers.sampling.recommended import settled_sampling

    policy = policy if policy.method else replace(policy, method=table_name(trainer))
    cost = cost_of(policy, trainer, sampling, len(prompts))
    own = goes_through_reward(trainer)
    if own and reward is None:
        raise ValueError(
            "reward: this trainer follows the reward's gradient, which is a part of what it needs; connect a reward"
        )
    sampling = replace(settled_sampling(policy, sampling), open=())
    trainer = settled_trainer(policy, adopted(trainer))
    tried = replace(trainer, settings=at_one_level(trainer.settings), optimizer=replace(trainer.optimizer, updates=1), open=())
    done = 0

    def trial(policy, images: int):
        nonlocal done
        made = _own_trial if own else _trial
        new = made(policy, prompts, vae, sampling, tried, reward, images)
        done += 1
        if progress is not None:
            progress(done, 3)
        return new

    return forecast(policy, trial, images_at_once(trainer, sampling), cost)


def images_at_once(trainer, sampling) -> int:
    """The images of a micro-batch. Trainers of whole groups take a prompt's images together; pairs are one of each prompt."""
    from ...trainers.engine.cost import whole_groups
    from ...trainers.feedback.pairs import Preferences
    from ...trainers.methods import method_of

    group, prompts, method = sampling.images_per_prompt, sampling.prompts_per_iteration, method_of(trainer)
    if method.by_group:
        return whole_groups(sampling.batch_size, group)
    if method.learns_from is Preferences:
        return min(2 * max(1, sampling.batch_size // 2), 2 * prompts)
    return min(sampling.batch_size, group * prompts)


def _trial(policy, prompts, vae, sampling, trainer, reward, images: int):
    """Sampled, decoded and trained on, scores invented."""
    from ...trainers.engine.dry_run import Trial, small
    from ...trainers.methods import train_step
    from ...trainers.policy.latents import to_images
    from ...trainers.policy.meter import metered
    from ...trainers.sampling.rollout import rollout

    device = policy.model.load_device
    made, sampled = metered(device, lambda: rollout(policy, prompts, vae, small(sampling, images, False), 0))
    _, decoded = metered(device, lambda: to_images(policy.model, vae, made.latents))
    new, trained = metered(device, lambda: train_step(policy, made, invented(made, trainer), trainer))
    seconds = max(0.0, sampled.seconds - decoded.seconds) / made.evaluations
    each = trained.seconds / max(1, new.metrics.get("update_evaluations", 1))
    return new, Trial(images, trained, seconds, decoded.seconds / images, each)


def _own_trial(policy, prompts, vae, sampling, trainer, reward, images: int):
    from ...trainers.engine.dry_run import Trial, small
    from ...trainers.methods import backprop_step
    from ...trainers.policy.meter import metered

    (new, _), taken = metered(
        policy.model.load_device, lambda: backprop_step(policy, prompts, vae, reward, small(sampling, images, True), trainer)
    )
    return new, Trial(images, taken, 0.0, 0.0, taken.seconds / max(1, new.metrics.get("update_evaluations", 1)))


def invented(made, trainer):
    """Feedback of the trainer's kind, as if each image were better than the one before."""
    import torch

    from ...rewards.base.reward import Scores
    from ...trainers.feedback.advantages import Advantages, advantages
    from ...trainers.feedback.labels import Labels, labels
    from ...trainers.feedback.pairs import Preferences, preferences
    from ...trainers.feedback.step_pairs import StepPreferences
    from ...trainers.methods import method_of

    count = len(made.index)
    scores = Scores(torch.linspace(0, 1, count, dtype=torch.float64), made.index, {}, {})
    wanted = method_of(trainer).learns_from
    if wanted is StepPreferences:
        states = made.random_steps().states[:, 1]
        rows = torch.arange(count)
        return StepPreferences(rows, torch.zeros_like(rows), states, states * 0.99, torch.ones(count), {"failed": 0.0})
    if wanted is Preferences:
        return preferences(scores, "all pairs")
    return {Advantages: lambda: advantages(scores, "batch"), Labels: lambda: labels(scores)}.get(wanted, lambda: None)()


NODES = {"PTEstimate": PTEstimate}
NAMES = {"PTEstimate": "Estimate Memory and Time"}

"""Train: the whole loop in one node, over the same functions as the nodes of the wired one."""
from __future__ import annotations

from dataclasses import replace

from ...rewards.base.reward import check_prompts
from ..progress import node_progress
from ..run_name import name_is_valid
from ..sampling.rollout import say_need
from ..sockets import MENU, POLICY, PROMPTS, REWARD, SAMPLING, TRAINER
from .curve import RunCurve
from .wired import RESULTS, back_input, cache_key, open_session, results_of, run_inputs, samples_input, watch_inputs


class PTTrain:
    DESCRIPTION = ("Trains a policy: rollout, score, advantages and train step, as often as asked. The same as the "
                   "wired loop with Rollout, Score, Advantages and Train Step, in one node.")
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/7 Loop", "run", True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = RESULTS

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.feedback.advantages import RULES
        from ...trainers.recipes.cards import CHOICES
        return {"required": {
            "policy": (POLICY, {"tooltip": "The policy to train, from Create Policy."}),
            "prompts": (PROMPTS, {"tooltip": "From Encode Prompts."}),
            "vae": ("VAE", {"tooltip": "The model's VAE."}),
            "sampling": (SAMPLING, {"tooltip": "From Sampling Settings."}),
            "trainer": (TRAINER, {"tooltip": "An algorithm with its settings: Flow-GRPO, DDPO ..."}),
            "advantage_rule": (RULES, {"default": RULES[0], "tooltip": "What an image is compared with. The default is "
                               "Flow-GRPO's; 'per-prompt memory' is DDPO's and works with few images per prompt. Trainers "
                               "through the reward (DRaFT ...) do not use it."}),
            **run_inputs(), "samples_every": samples_input()},
            "optional": {"reward": (REWARD, {"tooltip": "What the images are scored by. Only distillation (LCM, ADD) can do "
                                             "without one."}), **watch_inputs(), **back_input(),
                         "card": (CHOICES, {"default": CHOICES[0], "tooltip": "The size of your card: what it takes to train the "
                                            "model there is done from the start. as set: low memory and batch size as they "
                                            "stand; where memory runs out the run goes on all the same, after a lost try."})},
            "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID", "extra_pnginfo": "EXTRA_PNGINFO"}}

    @classmethod
    def VALIDATE_INPUTS(cls, run_name=None):
        return name_is_valid(run_name)

    @classmethod
    def IS_CHANGED(cls, run_name=None, when_run_exists=None, **_):
        return cache_key(run_name, when_run_exists)

    def run(self, policy, prompts, vae, sampling, trainer, advantage_rule, run_name, iterations, when_run_exists,
            save_every, samples_every, dynprompt, unique_id, reward=None, stop=(), evaluation=None, extra_pnginfo=None,
            continue_from=0, card="as set"):
        from comfy.model_management import throw_exception_if_processing_interrupted

        from ...trainers.methods import cost_of
        from ...trainers.run import RunPlan
        if reward is not None:
            check_prompts(reward, prompts.prompts)
        plan = RunPlan(run_name, iterations, when_run_exists, save_every, samples_every, tuple(stop), evaluation,
                       continue_from)
        inputs = tuple(dynprompt.get_node(unique_id)["inputs"])
        bar = node_progress(unique_id)
        curve = RunCurve()
        with open_session(plan, policy, dynprompt, unique_id, inputs, curve, extra_pnginfo) as session:
            cost = cost_of(session.policy, trainer, sampling, len(prompts))
            if cost is not None and session.run is not None and not session.done:
                session.message(cost.words())
            while not session.done:
                throw_exception_if_processing_interrupted()
                new, images = one_iteration(on_card(session.policy, card), prompts, vae, sampling, reward, trainer,
                                            advantage_rule, session.iteration)
                session.advance(new, images)
                bar(session.iteration, iterations, preview=curve.preview(session))
        return results_of(session, curve)


def on_card(policy, card: str):
    """The policy with what training it on such a card gives up from the start."""
    from ...trainers.policy.room import Room, with_room
    from ...trainers.recipes.cards import row_for
    row = row_for(card, policy.model.model_size())
    if row is None:
        return policy
    room = Room(row.recompute, row.at_once, row.in_ram)
    return replace(policy, memory=with_room(policy.memory, room, f"The card has {card}"))


def one_iteration(policy, prompts, vae, sampling, reward, trainer, rule: str, iteration: int):
    """-> the policy after rollout, score, advantages and train step, or one step through the reward, and the images.

    reward: None where the trainer needs none.
    """
    from ...rewards.base.reward import score_rollout
    from ...trainers.feedback.advantages import Advantages, advantages
    from ...trainers.feedback.fits import WORDS
    from ...trainers.methods import backprop_step, goes_through_reward, method_of, name_of, reads_means, table_name, train_step
    from ...trainers.run.steering import asked_weights
    from ...trainers.sampling.rollout import rollout
    wanted = method_of(trainer).learns_from
    policy = policy if policy.method else replace(policy, method=table_name(trainer))
    learns = goes_through_reward(trainer) or wanted is not None
    if wanted not in (None, Advantages):
        raise ValueError(f"trainer: {name_of(trainer)} learns from {WORDS[wanted][0]}, but Train makes "
                         f"advantages; draw the loop with Loop Start and Loop End instead, and in it {WORDS[wanted][1]}")
    if learns and reward is None:
        raise ValueError("reward: this trainer learns from scores; connect a reward")
    if goes_through_reward(trainer):
        return backprop_step(policy, prompts, vae, reward, sampling, trainer, iteration)
    made, feedback = rollout(policy, prompts, vae, sampling, iteration, keep_means=reads_means(trainer),
                             tell=say_need), None
    made = replace(made, reward_weights=asked_weights(policy))
    if reward is not None:
        # scores that are only shown need no rule, so one image of a prompt is enough
        feedback = advantages(score_rollout(reward, made), rule if learns else "batch", memory=policy.memory.get("rewards"))
    return train_step(policy, made, feedback, trainer), made.images


NODES = {"PTTrain": PTTrain}
NAMES = {"PTTrain": "Train"}

"""Who reads a rollout: whether what is only of use to some trainers has to be kept."""

from __future__ import annotations

from collections.abc import Iterator

from .body import links_of
from .runner import fed

TRAIN_STEP = "PTTrainStep"
# nodes of this pack with a rollout among their inputs, that look at its images, latents or states and hand nothing of it on
OTHERS = {"PTScore", "PTScoreLatents", "PTStepReward", "PTStepRewardByRollouts", "PTBackpropStep"}


def means_are_read(dynprompt, node: str) -> bool:
    """Whether the means of the steps of the rollout that ``node`` makes have to be kept; they are as large as its states.

    Yes, unless it is known that nobody reads them: inside a loop, whose trainers are known, and for this pack's nodes alone.
    """
    if dynprompt is None or node is None:
        return True
    from ...trainers.methods import reads_means

    trainers = []
    for reader in (dynprompt.get_node(each) for each in dynprompt.all_node_ids()):
        if (node, 0) not in links_of(reader).values():
            continue
        if reader["class_type"] == TRAIN_STEP:
            trainers.append(_trainer_of(dynprompt, reader))
        elif reader["class_type"] not in OTHERS:
            return True
    return not trainers or any(trainer is None or reads_means(trainer) for trainer in trainers)


def check_no_steps_are_needed(dynprompt, node: str, source: str) -> None:
    """ValueError where a trainer that learns from the rollout of ``node`` needs its random steps, and it has none. source: whose
    rollout it is, in words. Only inside a loop are the trainers known before anything is sampled; Train Step looks again."""
    from ...trainers.methods import TRAJECTORY, method_of, name_of

    for trainer in _trainers_on(dynprompt, node):
        if method_of(trainer).needs == TRAJECTORY:
            raise ValueError(
                f"trainer: {name_of(trainer)} learns from the likelihoods of random steps, and {source} tells none; "
                "use Rollout, or a trainer of finished images such as DiffusionNFT, AWM, DGPO, CRD or RWR"
            )


def check_may_be_behind(dynprompt, node: str) -> None:
    """ValueError where a trainer that learns from the rollout of ``node`` does not take images of one iteration before."""
    from ...trainers.engine.behind import behind_words
    from ...trainers.methods import method_of, name_of

    for trainer in _trainers_on(dynprompt, node):
        if not method_of(trainer).behind:
            raise ValueError(behind_words(name_of(trainer)))


def _trainers_on(dynprompt, node: str | None) -> Iterator:
    """Those that learn from the rollout of ``node``, as far as they are known before anything is sampled: inside a loop."""
    if dynprompt is None or node is None:
        return
    for reader in (dynprompt.get_node(each) for each in dynprompt.all_node_ids()):
        if reader["class_type"] == TRAIN_STEP and links_of(reader).get("rollout") == (node, 0):
            trainer = _trainer_of(dynprompt, reader)
            if trainer is not None:
                yield trainer


def _trainer_of(dynprompt, step: dict):
    """The trainer of a train step, where it comes into a loop from outside; None where it is not known yet."""
    source, slot = links_of(step).get("trainer", (None, 0))
    values = None if source is None else fed(dynprompt.get_node(source), slot)
    return values[0] if values and len(values) == 1 else None

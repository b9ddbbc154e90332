"""The shipped templates, in the order of the list; those of single trainers are in templates_training."""
from __future__ import annotations

from .template import DEMO_NUMBERS, Template
from .templates_own import OWN
from .templates_rewards import REWARDS
from .templates_training import FOLDS, ONLINE, PICTURE, TRAINING

FOLLOW_PROMPTS = """## Learn to follow prompts

A tiny model that draws coloured balls learned from partly wrong captions: it often draws the wrong number or colour. \
Here it learns from an exact checker, by **Flow-GRPO**: images of the same prompt compete with each other.

1. Press **Run**. On two CPU cores it takes about ten minutes.
2. Watch the reward rise on **Loop End**; the same curve is in the side bar under **PostTrain**.
3. Compare **Before** and **After**: a prompt that it never trained on, with the same noise.

Press Run again with more **iterations** to train on. **Cancel** keeps what was learned so far.

**Your own model:** replace Demo World by your loaders, write prompts in *Prompt List*, pick a reward, and set width \
and height in *Sampling Settings*. """ + DEMO_NUMBERS + "\n"

TEMPLATES = (
    Template("learn_to_follow_prompts_flow_grpo", "Learn to follow prompts (Flow-GRPO)", FOLLOW_PROMPTS, ONLINE, PICTURE, folds=FOLDS),
    *TRAINING,
    *OWN,
    *REWARDS,
)

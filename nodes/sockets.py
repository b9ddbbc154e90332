"""The type names of the pack's own sockets, and the words that several nodes share."""
from __future__ import annotations

POLICY = "PT_POLICY"
PROMPTS = "PT_PROMPTS"
SAMPLING = "PT_SAMPLING"
ROLLOUT = "PT_ROLLOUT"
COMPUTERS = "PT_COMPUTERS"
REWARD = "PT_REWARD"
SCORES = "PT_SCORES"
ADVANTAGES = "PT_ADVANTAGES"
PREFERENCES = "PT_PREFERENCES"
# what a train step learns from; either fits
FEEDBACK = f"{ADVANTAGES},{PREFERENCES}"
PAIRS = "PT_PAIRS"
ENCODED_PAIRS = "PT_ENCODED_PAIRS"
STEP_REWARD = "PT_STEP_REWARD"
TRAINER = "PT_TRAINER"
TEACHER = "PT_TEACHER"
LOOP = "PT_LOOP"
STOP = "PT_STOP"
EVALUATION = "PT_EVALUATION"
DISTANCE = "PT_DISTANCE"

MENU = "PostTrain"
SEED = {"default": 0, "min": 0, "max": 2**53 - 1, "control_after_generate": False}

"""The nodes of DiffusionOPD: the trainer, and the LoRAs that it merges."""

from __future__ import annotations

from ..model.lora_file import NONE, choice_is_valid, lora_menu, read_lora_file, state_of_choice
from ..sockets import POLICY, TEACHER
from ..widgets import CHOICE
from .node import TRAINERS, TrainerNode


class PTDiffusionOPD(TrainerNode):
    DESCRIPTION = (
        "DiffusionOPD: merges LoRAs that were trained on different rewards into one that keeps what each has learned. "
        "Each teaches the prompts that it is good at, at the steps that the student takes itself. Needs no reward. "
        "arXiv:2605.15055"
    )
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "weighting": (
            CHOICE,
            {
                "tooltip": "What the student is compared with its teacher by. predictions: all steps count alike. "
                "step means: as in the official code; the late, long steps of SD3 and Flux count up to 45 times "
                "as much. exact KL: the same over the step's noise, only for rollouts with random steps."
            },
        )
    }
    LATER = {"teacher": (TEACHER, {"tooltip": "From LoRA Teacher, of which several form a chain."})}

    @classmethod
    def kind(cls):
        from ...trainers.diffusion_opd import DiffusionOPD

        return DiffusionOPD

    def settings(self, teacher=None, **own):
        return super().settings(**own, teachers=teacher or ())


class PTTeacher:
    DESCRIPTION = (
        "A LoRA that teaches DiffusionOPD's student: a file of models/loras, or a policy that was trained in this "
        "workflow. It is laid over the student's own MODEL, in place of what the student has learned."
    )
    CATEGORY, FUNCTION = TRAINERS, "run"
    RETURN_TYPES, RETURN_NAMES = (TEACHER,), ("teacher",)
    OUTPUT_TOOLTIPS = ("For DiffusionOPD, or for the next LoRA Teacher.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "lora": (
                    lora_menu(),
                    {
                        "default": NONE,
                        "tooltip": "The LoRA, as .safetensors in models/loras. none where a policy is connected.",
                    },
                ),
                "words": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Which prompts it teaches: those that hold one of these words, with "
                        "commas between them. Empty: all that no other teacher's words are in. Where several teachers "
                        "fit, the images are dealt out among them.",
                    },
                ),
                "guidance": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 30.0,
                        "step": 0.1,
                        "tooltip": "Guidance scale (cfg) at "
                        "which it is asked, best the one that it was trained with. 0: as the rollout was sampled.",
                    },
                ),
            },
            "optional": {
                "policy": (
                    POLICY,
                    {
                        "tooltip": "In place of a file: a trained policy, from Loop End or Train. It must be on the "
                        "same MODEL as the student."
                    },
                ),
                "others": (TEACHER, {"tooltip": "Further teachers, from another LoRA Teacher."}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, lora=NONE, **_):
        return state_of_choice(lora)

    @classmethod
    def VALIDATE_INPUTS(cls, lora=None):
        return choice_is_valid(lora)

    def run(self, lora, words, guidance, policy=None, others=None):
        from ...trainers.diffusion_opd import Teacher

        if (lora != NONE) == (policy is not None):
            raise ValueError(
                f"lora: {'a file is chosen and a' if policy is not None else 'no file is chosen and no'} policy is "
                "connected; a teacher is one of the two: choose a file, or connect a policy and leave lora at "
                f"{NONE}"
            )
        tensors, metadata = (None, None) if policy is not None else read_lora_file(lora)
        own = tuple(word.strip() for word in words.replace("，", ",").split(",") if word.strip())
        name = "the connected policy" if policy is not None else lora
        return ((*(others or ()), Teacher(name, tensors, metadata, policy, own, guidance)),)


NODES = {"PTDiffusionOPD": PTDiffusionOPD, "PTTeacher": PTTeacher}
NAMES = {"PTDiffusionOPD": "DiffusionOPD", "PTTeacher": "LoRA Teacher"}

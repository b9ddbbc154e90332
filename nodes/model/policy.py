"""Nodes that make a policy out of a MODEL, and a MODEL or a LoRA out of a policy."""
from __future__ import annotations

from ..sockets import MENU, POLICY, SEED, TRAINER
from ..widgets import CHOICE, filled, left_open
from .layer_pattern import checked_pattern
from .lora_file import NONE, choice_is_valid, lora_menu, read_lora_file, state_of_choice

AUTO = "auto"
WITHOUT = "the model without it"
AS_IT_CAME = "the LoRA as it came"


class PTCreatePolicy:
    DESCRIPTION = ("Makes your model trainable: a small LoRA is laid over it, and only that is trained. Your model "
                   "itself is never changed, and switched off the LoRA is the reference to compare with. Shows the numbers "
                   "that are recommended for your model.")
    CATEGORY, FUNCTION = f"{MENU}/2 Policy", "run"
    RETURN_TYPES, RETURN_NAMES = (POLICY,), ("policy",)
    OUTPUT_TOOLTIPS = ("The policy before training; connect it to Loop Start or Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.policy import Recipe
        return {"required": {
            "model": ("MODEL", {"tooltip": "Any model that ComfyUI loads, with your own LoRAs on it if you like."}),
            "rank": left_open(("INT", {"max": 1024, "tooltip": "Size of the LoRA. 16 to 64 suits most; a larger one learns more "
                                       "and weighs more."})),
            "alpha": left_open(("FLOAT", {"max": 4096.0, "step": 0.01, "tooltip": "Strength of the LoRA is alpha / rank: 1 to 2 "
                                          "as a rule."})),
            **filled({
            "layers": (CHOICE, {"tooltip": "Which layers get a LoRA. The default suits transformers; for SD1.5 and "
                                            "SDXL convolutions can help."}),
            "seed": ("INT", {**SEED, "tooltip": "Start of the LoRA's random weights."})}, Recipe, {"layers": "targets"})},
            "optional": {
                "layer_pattern": ("STRING", {"default": "", "tooltip": "For experts: a regular expression on layer names "
                                             "instead of the choice above. Empty: not used."}),
                "start": ((AUTO, *Recipe.CHOICES["start"]), {"tooltip": "How the LoRA's first matrix starts. gaussian: as "
                          "official LoRAs do; kaiming: on large models the first steps are about six times smaller. auto: as "
                          "recommended where alpha is -1, else kaiming, as in workflows from before this choice."}),
                "trainer": (TRAINER, {"tooltip": "The trainer that the policy is for: what is recommended here and in Sampling "
                                      "Settings is then what suits it. Unwired: DDPO or Flow-GRPO, as the model is."}),
                "lora": (lora_menu(), {"default": NONE, "tooltip": "Go on from a LoRA that you have, of any program, as "
                                       ".safetensors in models/loras. Its rank, alpha and layers are then taken, "
                                       "and not those above."}),
                "lora_model": ("LORA_MODEL", {"tooltip": "The same, from Train LoRA in this workflow."}),
                "reference": ((WITHOUT, AS_IT_CAME), {"default": WITHOUT, "tooltip": "Only with a LoRA to go on from: what the "
                              "training is held near to and compared with. As it came: nothing of it is taken back."}),
                "partly": ("BOOLEAN", {"default": False, "tooltip": "Only with a LoRA to go on from: if some of its layers do "
                                       "not fit this model, go on with the others. Off: that is an error."}),
                **filled({"kind": (CHOICE, {"tooltip": "LoRA suits most. rsLoRA: strength alpha / root of rank. LoHa, LoKr, OFT: "
                                            "its relatives, as in ComfyUI's Train LoRA; slower. Not used with a LoRA to go on "
                                            "from."})},
                         Recipe)}}

    @classmethod
    def IS_CHANGED(cls, lora=NONE, **_):
        return state_of_choice(lora)

    @classmethod
    def VALIDATE_INPUTS(cls, lora=None):
        return choice_is_valid(lora)

    def run(self, model, rank, alpha, layers, seed, layer_pattern="", start=AUTO, trainer=None, lora=NONE, lora_model=None,
            reference=WITHOUT, partly=False, kind="LoRA"):
        from ...trainers.methods import table_name
        from ...trainers.policy import Recipe, create_policy
        from ...trainers.recipes.settle import OPEN
        method = "" if trainer is None else table_name(trainer)
        if lora != NONE or lora_model is not None:
            return begun(model, lora, lora_model, reference, partly, method)
        checked_pattern(layer_pattern)
        given = {"rank": rank, "alpha": alpha}
        asked = tuple(name for name, value in given.items() if value == OPEN)
        given = {name: value for name, value in given.items() if name not in asked}
        if start != AUTO:
            given["start"] = start
        elif "alpha" in asked:
            asked = (*asked, "start")
        recipe = Recipe(**given, targets=layers, pattern=layer_pattern, seed=seed, open=asked, kind=kind)
        policy = create_policy(model, recipe, method)
        return {"ui": {"text": shown(policy)}, "result": (policy,)}


def begun(model, lora: str, lora_model, reference: str, partly: bool, method: str) -> dict:
    """From a LoRA: a file's name or a LORA_MODEL, not both."""
    from ...trainers.policy.from_lora import read_lora
    from ...trainers.policy.value import policy_from_lora
    if lora != NONE and lora_model is not None:
        raise ValueError(f"lora: a file is chosen and a LORA_MODEL is wired; a policy begins from one. Set it to {NONE}, or take "
                         "the wire off lora_model")
    tensors, metadata = read_lora_file(lora) if lora_model is None else (lora_model, {})
    found = read_lora(model, tensors, partly, metadata, "lora" if lora_model is None else "lora_model")
    policy = policy_from_lora(model, found, reference == AS_IT_CAME, method)
    return {"ui": {"text": [found.words, f"The reference: {reference}", *shown(policy)]}, "result": (policy,)}


def shown(policy) -> list[str]:
    """What the node says: the model's family, the LoRA, and the table of what is recommended."""
    from ...trainers.policy.recommended import family, recommended
    from ...trainers.recipes.words import as_table
    found, lora = recommended(policy.model, policy.method), policy.recipe
    return [
        *([f"{found.why_not}."] if found.why_not else []),
        f"Your model is {family(policy.model).words}",
        f"The LoRA, as {lora.kind}: rank {lora.rank}, alpha {lora.alpha:g}, start {lora.start}",
        f"Recommended for {found.method}, where a node says -1 or recommended:",
        as_table(found),
    ]


class PTApplyPolicy:
    DESCRIPTION = ("The policy as an ordinary MODEL: for KSampler and every other node, for before and after pictures "
                   "in the same workflow.")
    CATEGORY, FUNCTION = f"{MENU}/8 Export", "run"
    RETURN_TYPES, RETURN_NAMES = ("MODEL",), ("model",)
    OUTPUT_TOOLTIPS = ("Your model with what was learned.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "A policy, trained or on its way."}),
            "strength": ("FLOAT", {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05,
                                   "tooltip": "1 is what was trained, 0 is your model as it was. Less than 1 softens "
                                              "what was over-trained."})}}

    def run(self, policy, strength):
        from ...trainers.policy import policy_as_model
        return (policy_as_model(policy, strength),)


NODES = {"PTCreatePolicy": PTCreatePolicy, "PTApplyPolicy": PTApplyPolicy}
NAMES = {"PTCreatePolicy": "Create Policy", "PTApplyPolicy": "Policy to Model"}

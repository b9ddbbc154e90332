"""A pack of somebody else: a reward and a trainer for ComfyUI-PostTrain, which is neither imported nor named.

docs/other_packs.md explains what the two values are. It is loaded before the other pack or after it, whatever their names.
"""

from dataclasses import dataclass


def warmth(images, prompts):
    """How much redder than blue an image is, -1..1: [B, H, W, 3] in [0, 1] -> [B]."""
    return (images[..., 0] - images[..., 2]).mean((1, 2))


warmth.differentiable, warmth.low, warmth.high = True, -1.0, 1.0


class ExampleWarmth:
    DESCRIPTION = "Rewards warm colours."
    CATEGORY, FUNCTION, RETURN_TYPES = "example", "run", ("PT_REWARD",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (warmth,)


@dataclass(frozen=True)
class OwnBest:
    """Fine-tunes on the images that were better than the others of their prompt: loss = mean_i [A_i > margin] error_i."""

    margin: float
    learning_rate: float
    levels: int = 2
    name = "Own Best"
    learns_from, needs = "advantages", "latents"

    @property
    def optimizer(self):
        return {"learning_rate": self.learning_rate}

    def step(self, tools, policy, rollout, feedback, optimizer, progress):
        good = feedback.used & (feedback.values > self.margin)
        if not bool(good.any()):
            raise ValueError(f"margin: no image is better by {self.margin}; choose a smaller margin")
        micros = tools.noised(rollout, good, self.levels, optimizer.updates, rollout.batch_size)

        def evaluate(net, bank, micro):
            noisy = tools.Renoised(net, rollout, micro)
            error = noisy.error(noisy.ask(bank))
            return error.mean(), tools.numbers(denoising_error=error.mean())

        return tools.update(policy, micros, evaluate, optimizer, progress=progress)


class ExampleOwnBest:
    DESCRIPTION = "Fine-tunes on the best of the policy's own images."
    CATEGORY, FUNCTION, RETURN_TYPES = "example", "run", ("PT_TRAINER",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "margin": ("FLOAT", {"default": 0.0}),
                "learning_rate": ("FLOAT", {"default": 1e-3, "step": 1e-5, "round": 1e-7}),
            }
        }

    def run(self, margin, learning_rate):
        return (OwnBest(margin, learning_rate),)


NODE_CLASS_MAPPINGS = {"ExampleWarmth": ExampleWarmth, "ExampleOwnBest": ExampleOwnBest}

"""My Taste: the votes that somebody has given by hand as a reward that answers by itself."""

from __future__ import annotations

from ..access import state_of, votes_root
from ..progress import node_progress
from ..run_name import name_is_valid
from .node import BATCH, RewardNode, model_input, precision_input


class PTRewardTaste(RewardNode):
    DESCRIPTION = (
        "Learns what you like from the votes that you gave in Rate by Hand, and scores images by itself. Says how often it is "
        "right on votes that it has not seen. It reads no prompt: put it into an ensemble with a reward that does."
    )
    OUTPUT_NODE = True
    RETURN_TYPES, RETURN_NAMES = (*RewardNode.RETURN_TYPES, "STRING"), (*RewardNode.RETURN_NAMES, "summary")
    OUTPUT_TOOLTIPS = (*RewardNode.OUTPUT_TOOLTIPS, "How often it is right on votes that it has not seen, beside chance.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.learned.taste import TOWERS

        name = ("STRING", {"default": "my taste", "tooltip": "The votes_name of Rate by Hand whose votes it learns from."})
        tower = (
            list(TOWERS),
            {
                "tooltip": "The network whose image embedding is read, as for Aesthetic Reward: CLIP is smaller and quicker, "
                "SigLIP looks closer."
            },
        )
        model = model_input(
            "clip_vision",
            "reward_models",
            tooltip="The image tower's file in models/clip_vision; auto finds the published name of clip-vit-large-patch14 or "
            "siglip-so400m-patch14-384. PickScore's and other CLIP files serve, too.",
        )
        return {
            "required": {"votes_name": name, "tower": tower, "model": model},
            "optional": {"precision": precision_input(), "batch_size": BATCH},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model=None, votes_name=None):
        return True if votes_name is None else name_is_valid(votes_name, "votes_name")

    @classmethod
    def IS_CHANGED(cls, votes_name, **_):
        from ...trainers.data.vote_book import VOTES

        return state_of(str(votes_root() / votes_name / VOTES) if isinstance(votes_name, str) else None)

    def run(self, votes_name, tower, model, precision="auto", batch_size=16, unique_id=None):
        from ...rewards.learned.aesthetic import VERSIONS
        from ...rewards.learned.holder import cancel_point, find_model, shared
        from ...rewards.learned.taste import TOWERS, TasteReward, save
        from ...trainers.data.verdicts import taste_from, votes_file
        from .person import votes_folder

        folder, chosen = votes_folder(votes_name), VERSIONS[TOWERS[tower]]
        votes = votes_file(folder)
        file = find_model(chosen.tower, model)
        holder = shared(file, chosen.build.__name__, lambda: chosen.build(file), precision)
        reward = TasteReward(votes_name, tower, holder, folder / "taste.safetensors", batch_size)

        def embed(image):
            cancel_point()
            return reward.embeddings(image)

        taste = taste_from(votes, embed, node_progress(unique_id))
        told = {"tower": tower, "model": file.name, "summary": taste.summary()}
        save(taste.head.weight, taste.head.bias, folder / "taste.safetensors", told)
        return {"ui": {"text": [taste.summary()]}, "result": (reward, taste.summary())}


NODES = {"PTRewardTaste": PTRewardTaste}
NAMES = {"PTRewardTaste": "My Taste Reward"}

"""Picture Distance: how far a policy's pictures lie from others, for what evaluates policies."""

from __future__ import annotations

from ..rewards.node import BATCH, model_input, precision_input
from ..sockets import DISTANCE, MENU

CLIP, INCEPTION, DEMO = NETWORKS = ("CLIP", "Inception (FID, KID)", "demo world")


class PTPictureDistance:
    DESCRIPTION = (
        "FID, KID and CMMD: how far a policy's pictures lie from other ones, your model's own or those of a folder. Connect it "
        "to Evaluate Policy or Evaluate While Training: a reward that rises while the pictures move away may be gamed."
    )
    CATEGORY, FUNCTION = f"{MENU}/8 Export", "run"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = (
        (DISTANCE,),
        ("distance",),
        ("For Evaluate Policy or Evaluate While Training.",),
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "network": (
                    list(NETWORKS),
                    {
                        "tooltip": "What looks at the pictures. CLIP: a few hundred of them suffice. Inception: the numbers that "
                        "papers give, best with thousands. demo world: its own small CLIP."
                    },
                ),
                "model": model_input(
                    "clip_vision",
                    "reward_models",
                    tooltip="auto looks for clip-vit-large-patch14 in models/clip_vision, or for pt_inception-2015-12-05 in "
                    "models/reward_models (see the node's help). The demo world needs none.",
                ),
                "folder": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "A folder of pictures in ComfyUI's input folder to compare with. Empty: those of your model "
                        "before training, from other noise, which Evaluate Policy draws for it.",
                    },
                ),
                "limit": (
                    "INT",
                    {
                        "default": 1000,
                        "min": 2,
                        "max": 100_000,
                        "tooltip": "At most this many of the folder, spread evenly over it.",
                    },
                ),
            },
            "optional": {"precision": precision_input(), "batch_size": BATCH},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model):
        return True

    @classmethod
    def IS_CHANGED(cls, folder=None, **_):
        from ...trainers.data.folders import fingerprint
        from ..access import state_of

        return "" if folder == "" else state_of(folder, fingerprint)

    def run(self, network, model, folder, limit, precision="auto", batch_size=16):
        return (embedding_of(network, model, precision, pictures_of(folder.strip(), limit), batch_size),)


def pictures_of(folder: str, limit: int) -> list:
    """The files to compare with; none where no folder is named."""
    from ...rewards.folders import images_in
    from ..access import located

    if not folder:
        return []
    found = images_in(located(folder, "folder"))
    if len(found) < 2:
        raise ValueError("folder: it holds one picture; a distance needs 2, and is worth something with a hundred")
    return [found[i * len(found) // min(limit, len(found))] for i in range(min(limit, len(found)))]


def embedding_of(network: str, model: str, precision: str, pictures: list, batch_size: int):
    """The Embedding of a choice of NETWORKS. FileNotFoundError says what is missing, how large it is and where it belongs."""
    from ...rewards.learned.embedding import clip_embedding, inception_embedding, tower_embedding
    from ...rewards.learned.holder import find_model, shared

    if network == DEMO:
        from ...toy.judge import demo_judge

        (holder,) = demo_judge().networks()
        return clip_embedding(holder, "demo CLIP", pictures, batch_size)
    if network == INCEPTION:
        from ...rewards.learned.inception import PUBLISHED, build_inception

        file = find_model(PUBLISHED, model)
        return inception_embedding(shared(file, "inception", lambda: build_inception(file), precision), pictures, batch_size)
    from ...rewards.learned.tower import CLIP_L, build_clip_tower

    file = find_model(CLIP_L, model)
    return tower_embedding(
        shared(file, build_clip_tower.__name__, lambda: build_clip_tower(file), precision), pictures, batch_size
    )


NODES = {"PTPictureDistance": PTPictureDistance}
NAMES = {"PTPictureDistance": "Picture Distance"}

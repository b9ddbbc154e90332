"""The shipped templates for a model of one's own: real loaders around Train, every number recommended, ready to be an app."""

from __future__ import annotations

from .blocks import BEFORE_AND_AFTER, TRAIN_WITH
from .template import App, Fold, Group, Template

GOALS = """*look better*: as people prefer it. *follow prompts*: show what the prompt says. *my taste*: the page asks you. \
*like these pictures*: type the name of a folder of ComfyUI's *input*. *less of this*: type what, in words. Into \
*models/reward_models* belongs, for *look better*, `model.safetensors` of huggingface.co/yuvalkirstain/PickScore_v1, renamed to \
`PickScore_v1.safetensors` (3.9 GB); for the others but *my taste* that of huggingface.co/openai/clip-vit-large-patch14, renamed to \
`clip-vit-large-patch14.safetensors` (1.7 GB)."""
NOTE = """## {title}

Your {model} learns to make pictures that people prefer, or what else you choose as its goal. What comes out is an ordinary LoRA.

1. **Download**, where you have not: {files}, and the file of your goal.
2. Choose yours in **Your model**: this one, or any other {model}.
3. Write **prompts** of the kind that you make pictures of, one a line; dozens are better than a dozen.
4. Choose a **Goal**. {goals}
5. Press **Run**. The curve and the newest pictures are on **Train**. **Cancel** keeps what was learned; Run goes on.
6. Compare **Before** and **After**. The LoRA is in *models/loras/posttrain*.

Every number is the recommended one for your model (-1, *recommended*); Create Policy shows them, with their sources. Any that \
you type is taken instead.

**Memory:** *batch_size* in Sampling Settings is how many pictures are made and learned from at once: 1 needs least. Lower \
*width* and *height* there if that is too much, raise *batch_size* if there is room.

**Another goal:** replace *Goal* by any other reward, or by *Reward Ensemble* with a monitor, so that it cannot be gamed.
"""
BEFORE_AFTER = Fold(
    "50",
    "Before and after training",
    {
        "model": ["17.model"],
        "trained model": ["18.model"],
        "clip": ["14.clip", "15.clip"],
        "vae": ["19.vae", "20.vae"],
        "prompt": ["14.text"],
        "pictures": ["16.batch_size"],
    },
    {"before": "19.0", "after": "20.0"},
    [["14", "15", "16"], ["17", "18"], ["19", "20"]],
)
ROWS = [
    [
        Group("Start here", [["note"]]),
        Group("1  Your model", [["1"]]),
        Group("2  What it shall learn", [["2"], ["3", "7"]]),
        Group("3  How", [["6", "4"], ["5"]]),
    ],
    [
        Group("4  Training", [["8"]]),
        Group("5  Keep what was learned", [["9", "10"]]),
        Group("6  Before and after", [["50"], ["21", "22"]]),
    ],
]
CHECKPOINT = ("1", "ckpt_name", "checkpoint")
APP = App(
    (
        CHECKPOINT,
        ("2", "text", "prompts"),
        ("7", "goal", "goal"),
        ("7", "folder_or_words", "folder or words"),
        ("5", "batch_size", "pictures at once"),
        ("8", "iterations", "iterations"),
        ("8", "run_name", "run name"),
    ),
    ("8", "21", "22"),  # the curve, before, after
)
CHECKPOINTS = (
    ("own_sd15", "SD1.5", "v1-5-pruned-emaonly-fp16.safetensors", "huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive"),
    ("own_sdxl", "SDXL", "sd_xl_base_1.0.safetensors", "huggingface.co/stabilityai/stable-diffusion-xl-base-1.0"),
    ("own_sd35", "SD3.5 Medium", "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",
     "huggingface.co/Comfy-Org/stable-diffusion-3.5-fp8"),
    ("own_flux", "Flux.1 dev", "flux1-dev-fp8.safetensors", "huggingface.co/Comfy-Org/flux1-dev"),
)  # fmt: skip
IN_PARTS = (
    ("own_qwen", "Qwen-Image", "qwen_image_fp8_e4m3fn.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors",
     "qwen_image_vae.safetensors", "huggingface.co/Comfy-Org/Qwen-Image_ComfyUI", [["11", "1", "12"], ["13"]]),
    ("own_z_image", "Z-Image", "z_image_bf16.safetensors", "qwen_3_4b.safetensors", "ae.safetensors",
     "huggingface.co/Comfy-Org/z_image", [["11", "1", "12"]]),
)  # fmt: skip


def in_one_file(source: str, model: str, checkpoint: str, where: str) -> Template:
    return own(source, model, f"`{checkpoint}` ({where}) into *models/checkpoints*", [["1"]], CHECKPOINT)


def in_parts(source: str, model: str, network: str, text: str, vae: str, where: str, loaders: list) -> Template:
    files = (
        f"from {where} `{network}` into *models/diffusion_models*, `{text}` into *models/text_encoders* and `{vae}` into "
        "*models/vae*"
    )
    return own(source, model, files, loaders, ("1", "unet_name", "model file"))


def own(source: str, model: str, files: str, loaders: list, chosen: tuple[str, str, str]) -> Template:
    """files: what to download and where to put it; loaders: the nodes of the group that loads it; chosen: an app's widget."""
    name = f"Your own {model}, pictures that people prefer"
    note = NOTE.format(title=name, model=model, files=files, goals=GOALS)
    first, second = ROWS
    rows = [[first[0], Group("1  Your model", loaders), *first[2:]], second]
    app = App((chosen, *APP.inputs[1:]), APP.outputs)
    return Template(source, name, note, rows, [["8"], ["21", "22"]], {"note": (440, 760)}, (BEFORE_AFTER,), app=app)


IN_ONE_BLOCK = f"""## Your own model, in one block

The whole training is one node: **Train with a reward**. Your model learns to make pictures that people prefer, or what else you choose as \
its goal. What comes out is an ordinary LoRA.

1. Choose your checkpoint in **Your model**: SD1.5, SDXL, SD3.5, Flux or any other.
2. Choose a **goal**. {GOALS}
3. Write **prompts** of the kind that you make pictures of, one a line. Set *width* and *height* to what your model is made for.
4. Press **Run**. The curve is in the side bar, **PostTrain**, and in the end in **Curve**. **Cancel** keeps what was learned; Run \
goes on.
5. Compare **Before** and **After**: set *guidance* there as you use it, 1 for Flux. The LoRA is in *models/loras/posttrain*.

Every number inside is the recommended one for your model. *pictures at once*: 1 needs least memory, more is faster. Open the block with \
a double click on its title to see and change the training. More blocks are in the node library: learn from pairs, teach it your taste, \
score and compare.
"""
ONE_BLOCKS_WIDGETS = ("prompts", "goal", "folder or words", "pictures at once", "iterations", "run name")
ONE_BLOCK = Template(
    "own_model",
    "Your own model, in one block",
    IN_ONE_BLOCK,
    [
        [
            Group("Start here", [["note"]]),
            Group("1  Your model", [["1"]]),
            Group("2  Training", [["51"]]),
            Group("3  Curve, before and after", [["24", "50"], ["21", "22"]]),
        ]
    ],
    [["51"], ["24"], ["50"]],
    {"note": (440, 620)},
    (TRAIN_WITH, BEFORE_AND_AFTER),
    app=App(
        (CHECKPOINT, *(("51", name) for name in ONE_BLOCKS_WIDGETS)),
        ("24", "21", "22"),  # the curve, before, after
    ),
)

OWN = (*(in_one_file(*each) for each in CHECKPOINTS), *(in_parts(*each) for each in IN_PARTS), ONE_BLOCK)

"""The shipped templates of single trainers: the same demo world and the same loop, learned from in another way."""
from __future__ import annotations

from .template import DEMO_NUMBERS, Bend, Fold, Group, Template

OWN_MODEL = f"""
**Your own model:** replace Demo World by your loaders, write prompts in *Prompt List*, pick a reward, and set width \
and height in *Sampling Settings*. {DEMO_NUMBERS}
"""
OWN_PICTURES = f"""
**Your own model:** replace Demo World by your loaders, and set width and height in *Encode Pairs*. {DEMO_NUMBERS}
"""

NFT = """## Learn to follow prompts, fast

The demo model often draws the wrong number or colour. Here it learns from an exact checker, by **DiffusionNFT**: it is \
pulled towards its better pictures and away from its worse ones. The fastest way for flow models (SD3, Flux, Lumina), and \
the pictures may come from any sampler.

1. Press **Run**. On two CPU cores it takes about five minutes.
2. Watch the reward rise on **Loop End**. The violet line is the reward on prompts that it never trains on, measured by \
**Evaluate While Training**: as long as it rises too, it is getting better and not learning by heart.
3. Compare **Before** and **After**: a prompt that it never trained on, with the same noise. In the side bar, *Held-out prompts* \
shows many more; press on the picture to see the model before training.
""" + OWN_MODEL

DDPO = """## Any reward, on models of the SD1.5 kind

The classic, for SD1.5, SDXL and others that predict noise. By **DDPO**, every random step of the sampler that led to a \
better picture becomes likelier. The reward may be anything that gives a number; here it is the size of the JPEG file, as in \
the paper: pictures become plain and smooth.

1. Press **Run**. On two CPU cores it takes about five minutes: this tiny UNet costs more than the demo's transformer.
2. Watch the reward on **Loop End**: it is negative bits per pixel, so up is smaller.
3. Compare **Before** and **After**: a prompt that it never trained on, with the same noise.

*Random steps* in Sampling Settings are the third to the sixth of eight: there the picture is decided.
""" + OWN_MODEL

DRAFT = """## Follow a reward's gradient

Where a reward can be differentiated (colours, PickScore, HPS, CLIPScore, aesthetics), nothing has to be tried out: by \
**DRaFT** its gradient goes through the sampler into the LoRA. Few pictures, a minute, and a strong effect.

1. Press **Run**. On two CPU cores it takes about a minute.
2. Watch the reward shoot up on **Loop End**.
3. Look at **After**: more colour, as asked for, whatever the prompt says. This is what gaming a reward looks like.

Stop early, raise *kl_weight* in DRaFT, or use *Reward Ensemble* with a monitor to see when it goes too far. \
*backprop_steps* 1 changes details and colours, more steps reach the composition.
""" + OWN_MODEL

DPO = """## Learn from pairs of pictures

Of two pictures of a prompt you prefer one. From some hundred such pairs the model learns your taste, by \
**Diffusion-DPO**; no reward and no sampling while it trains.

1. Press **Run**. On two CPU cores it takes a few minutes.
2. Watch **Loop End**: *accuracy* is the share of pairs that the policy orders as you do.
3. Compare **Before** and **After**.

**Your own pairs:** delete *Demo Pictures* and type your folder's name into *Pairs from Folder*. It holds the folders \
*win* and *lose* with pictures of the same names, and a *.txt* file with the prompt.
""" + OWN_PICTURES

KTO = """## Learn from thumbs up and down

Single pictures that you like or dislike, without pairs, by **Diffusion-KTO**.

1. Press **Run**. On two CPU cores it takes a few minutes.
2. Watch **Loop End**: *accuracy* is the share of pictures that the policy sorts as you do.
3. Compare **Before** and **After**.

**Your own pictures:** delete *Demo Pictures* and type your folder's name into *Pairs from Folder*. It holds the folders \
*like* and *dislike*, and beside each picture a *.txt* file with its prompt.
""" + OWN_PICTURES

TASTE = """## Teach it your taste

You are the reward. The page shows nine pictures of a prompt: choose the best and the worst, with the mouse or the number \
keys. From these two clicks the model learns fifteen comparisons, by **Diffusion-DPO**.

1. Press **Run**, and choose. Ten iterations of six prompts are ten minutes or less for all. Are the balls right in number, \
colour and place? Or do you like them big, or bright? Whatever you prefer, stay with it.
2. Watch the pictures on **Loop End**: *accuracy* is the share of your choices that the policy would have made, too.
3. Compare **Before** and **After**.

*Pause the training* in the dialog keeps everything: press Run again, today or tomorrow, to go on. Every choice is saved with \
its pictures in *output/posttrain_votes/my taste*; wire *votes_file* into *Pairs from File* to train on all of them again.
""" + OWN_MODEL.replace("pick a reward, and set", "and set")

SPO = """## Step by step preferences

Two pictures differ in many things at once; two candidates for one denoising step differ in little. By **SPO** a judge of \
half-drawn pictures picks the better and the worse candidate at every random step, and the policy learns from these pairs.

1. Press **Run**. First the judge is trained on pictures of the untrained model: **Step Reward** shows how often it is \
right on prompts that were held out. Then the loop runs; a few minutes in all on two CPU cores.
2. Compare **Before** and **After**: a prompt that it never trained on, with the same noise.

The judge is small and can be gamed: trained on few pictures, or followed for long, its score soars and the pictures fall \
apart. Stop early, or wire a reward that looks at the pictures into *judge*. Random are the first five of eight steps, where \
the picture is decided: later ones would only teach it patterns that the judge likes.
""" + OWN_MODEL

MAPO = """## Preferences without a reference

**MaPO** learns from the best and the worst picture of each prompt, and never asks the untrained model: cheaper in memory \
and time than Diffusion-DPO, and free to move further. Nothing holds it back, so stop when it is good.

1. Press **Run**. On two CPU cores it takes a few minutes.
2. Watch the reward on **Loop End**, and compare **Before** and **After**.
""" + OWN_MODEL

LCM = """## Faster pictures after post-training

A model that was post-trained keeps what it has gained when it is made faster afterwards. Two loops, one after the other: \
**Diffusion-DPO** on pairs of pictures, then **LCM distillation** of its result, which learns to draw in 4 steps what its \
teacher draws in 16.

1. Press **Run**. On two CPU cores it takes about ten minutes, most of it in the two loops.
2. Read the three *Evaluate* nodes, on prompts that were never trained on: what DPO gained in 16 steps; what is left of it \
when the same model has only 4; and what the student shows in 4.
3. Compare **Before** and **After**: teacher and student, both in 4 steps, from the same noise.

The student's LoRA lies on top of the teacher's: load both.

**Your own model:** if you have a post-trained LoRA already, delete the first loop and wire your LoRA loader into *The \
student*. For another number of steps set *student_steps* in *LCM Distillation*, and the steps wherever you sample. \
If your model needs guidance, set it in the teacher's Sampling Settings; the student does without: cfg 1. """ + DEMO_NUMBERS + "\n"

HAVE = """## Improve a LoRA that you have

Post-training does not have to begin from nothing. **Create Policy** goes on from a LoRA: here one that ComfyUI's own *Train \
LoRA* makes in this workflow, on pictures of two green balls; then **DiffusionNFT** teaches it to follow prompts.

1. Press **Run**. On two CPU cores it takes about five minutes.
2. Read **Create Policy**: how many layers your LoRA has, and of what rank. They are taken as they are.
3. Compare **Before** and **After**: your LoRA as it came, and what became of it.

*reference* is *the LoRA as it came*: training is held near to it, so that what it can do stays. *the model without it* holds \
near to the model instead. What is saved is the whole LoRA, to be loaded in the place of the old one.

**Your own LoRA:** delete the group *The LoRA that you have*, and choose your file in Create Policy's *lora*: a .safetensors of \
any program that ComfyUI reads. For *Before*, load it with LoraLoaderModelOnly.
""" + OWN_MODEL

EDITS = """## Edit as told

For models that are shown a picture and told what to change: Flux Kontext, Qwen-Image-Edit, InstructPix2Pix. The demo's one paints \
coloured balls ("paint the red ball blue") and often paints the wrong one. Here it learns from an exact checker, which looks at both \
pictures, by **Flow-GRPO**.

1. Press **Run**. On two CPU cores it takes about five minutes.
2. Watch **Loop End**: the violet line is the reward on edits that it never trains on.
3. Compare **Before** and **After**: 36 such edits, from the same noise.

**Your own model:** replace Demo Edits by your loaders, and by *Edits* for a folder of pictures, each with its instructions; choose in \
*Encode Edits* how your model takes a picture. As a reward, a VLM judge sees the picture before, too, and so do you in *Rate by Hand*. \
Set width and height in *Sampling Settings*. """ + DEMO_NUMBERS + "\n"

FEW = """## Post-train a model of few steps

Turbo and distilled models draw in a few steps, and shall still do so when they are trained: trainers that learn from noised pictures \
would blur theirs. By **RTDMD** the random steps learn from any reward, here an exact checker; the last step, which has no noise, \
follows a reward with a gradient, here the small CLIP of *Demo Judge*; and a brake holds the pictures to what the fast model makes.

1. Press **Run**. On two CPU cores it takes about five minutes. First the demo model is made fast, from pictures of its own (*A fast \
model of the demo's own*), then the loop runs.
2. Watch **Loop End**: the violet line is the reward on prompts that it never trains on, drawn in 4 steps.
3. Compare **Before** and **After**: the fast model and what became of it, both in 4 steps, from the same noise.

The LoRA lies on top of the fast model's: load both.

**Your own model:** delete *A fast model of the demo's own*, and wire your Turbo model in its place. Wherever it is sampled set the \
steps that it draws in, and cfg 1; for SD1.5 and SDXL *ddim* in the place of *flow_cps*. The last step follows PickScore or another \
reward with a gradient; to go without, take *reward* and *vae* off RTDMD. Width and height are in *Sampling Settings*. """ + DEMO_NUMBERS + "\n"

NOTE = Group("Start here", [["note"]])
MODEL = Group("1  Model, prompts and reward", [["1"], ["3", "2"]])
SETTINGS = Group("2  How to sample and train", [["4"], ["5"]])
KEEP = Group("4  Keep what was learned", [["12", "13"]])
BEFORE_AFTER = Fold(
    "50", "Before and after",
    {"model": ["17.model"], "trained model": ["18.model"], "clip": ["14.clip", "15.clip"], "vae": ["19.vae", "20.vae"],
     "prompt": ["14.text"], "pictures": ["16.batch_size"]},
    {"before": "23.0", "after": "24.0"},
    [["14", "15", "16"], ["17", "18"], ["19", "23", "20", "24"]])
LORA_BELOW = Fold(
    "51", "A LoRA of the demo's own",
    {"model": ["26.model", "28.model", "29.model"], "clip": ["30.clip", "32.clip"]}, {"LoRA": "31.0", "model with it": "29.0"},
    [["30", "32", "25"], ["26"], ["27", "28"], ["31", "29"]])
FAST = Fold(
    "51", "A fast model of the demo's own",
    {"model": ["30.model"], "prompts": ["32.prompts"], "vae": ["32.vae"]}, {"fast model": "38.0"},
    [["30", "31"], ["32", "33"], ["34"], ["35"], ["36"], ["37", "38"]])
OTHER_PROMPTS = Fold(
    "52", "Prompts to measure it on",
    {"prompts": ["25.prompts"], "clip": ["25.clip"], "vae": ["27.vae"], "checker": ["27.reward"], "every": ["27.every"]},
    {"evaluation": "27.0"}, [["25", "26"], ["27"]])
MEASURED = Fold(
    "51", "On prompts that it never trained on",
    {"post-trained": ["43.policy", "44.policy"], "student": ["45.policy"], "prompts": ["40.prompts"], "clip": ["40.clip"],
     "vae": ["43.vae", "44.vae", "45.vae"], "reward": ["43.reward", "44.reward", "45.reward"]},
    {"many steps": "43.3", "few steps": "44.3", "student, few steps": "45.3"},
    [["40", "41", "42"], ["43", "44", "45"]])
HELD_OUT = Fold(
    "52", "Edits to measure it on",
    {"edits": ["25.prompts"], "clip": ["25.clip"], "vae": ["25.vae", "27.vae"], "checker": ["27.reward"], "every": ["27.every"]},
    {"evaluation": "27.0", "edits": "25.0"}, [["25", "26"], ["27"]])
EDITED = Fold(
    "51", "Edits that it never trained on",
    {"trained": ["41.policy"], "edits": ["41.prompts"], "vae": ["41.vae"], "checker": ["41.reward"]},
    {"before": "23.0", "after": "24.0", "in words": "41.3"}, [["40"], ["41"], ["23", "24"]])
COMPARE = Group("5  Before and after", [["50"], ["21", "22"]])
LOOP = "3  The loop: these nodes run in every iteration"
ONLINE = [[NOTE, MODEL, SETTINGS],
          [Group(LOOP, [["6"], ["7", "8"], ["9", "10"], ["11"]]), KEEP, COMPARE]]
FOLDER = [[NOTE, Group("1  Model", [["1"], ["3"]]), Group("2  Pictures, and how to learn", [["25", "26"], ["27"], ["5"]])],
          [Group(LOOP, [["6"], ["7"], ["10"], ["11"]]), KEEP, COMPARE]]
PICTURE = [["11"], ["21", "22"]]
FOLDS = (BEFORE_AFTER,)
BACK = (Bend("13.0", ("50",)), Bend("13.0", ("50",)))  # to a group that lies to the left

TRAINING = (
    Template("learn_to_follow_prompts_nft", "Learn to follow prompts, fast (DiffusionNFT)", NFT, [
        [NOTE, MODEL, SETTINGS, Group("Held-out prompts", [["25", "26"], ["27"]])], ONLINE[1]], PICTURE, folds=FOLDS, bends=BACK),
    Template("edit_as_told_flow_grpo", "Edit as told (Flow-GRPO)", EDITS, [
        [NOTE, Group("1  Model, edits and reward", [["1"], ["3", "2"], ["52"]]), SETTINGS],
        [*ONLINE[1][:2], Group("5  Before and after", [["51"], ["42", "21", "22"]])]], PICTURE, folds=(EDITED, HELD_OUT)),
    Template("any_reward_ddpo", "Any reward on SD1.5 models (DDPO)", DDPO, [
        [NOTE, MODEL, Group("2  The reward, and how to train", [["4"], ["25", "5"]])], ONLINE[1]], PICTURE, folds=FOLDS),
    Template("follow_a_rewards_gradient_draft", "Follow a reward's gradient (DRaFT)", DRAFT, [
        [NOTE, MODEL, Group("2  The reward, and how to train", [["4"], ["8", "5"]])],
        [Group(LOOP, [["6"], ["10"], ["11"]]), KEEP, COMPARE]], PICTURE, folds=FOLDS),
    Template("learn_from_pairs_diffusion_dpo", "Learn from pairs of pictures (Diffusion-DPO)", DPO, FOLDER, PICTURE, folds=FOLDS),
    Template("learn_from_thumbs_kto", "Learn from thumbs up and down (KTO)", KTO, FOLDER, PICTURE, folds=FOLDS),
    Template("teach_it_your_taste", "Teach it your taste (rate by hand)", TASTE, [
        [NOTE, MODEL, Group("2  You as the reward, and how to train", [["4"], ["25", "5"]])], ONLINE[1]], PICTURE, folds=FOLDS),
    Template("step_by_step_preferences_spo", "Step by step preferences (SPO)", SPO, [
        [NOTE, MODEL, SETTINGS, Group("A judge of half-drawn pictures", [["25"], ["26", "27"], ["28", "29"]])],
        [Group(LOOP, [["6"], ["7"], ["10"], ["11"]]), KEEP, COMPARE]], PICTURE, folds=FOLDS, bends=BACK),
    Template("faster_after_dpo_lcm", "Faster pictures after post-training (LCM)", LCM, [
        [NOTE, Group("1  Model and pictures", [["1"], ["3", "2"], ["25", "26"], ["27"]]),
         Group("2  Post-training: Diffusion-DPO", [["5"], ["6"], ["7", "10"], ["11"], ["12", "13"]])],
        [Group("3  The teacher's pictures, and the student", [["30"], ["31"], ["32"]]),
         Group("4  Distillation: LCM", [["33"], ["34"], ["35"], ["36"], ["37", "38"]])],
        [Group("5  How much of the gain is left", [["51"], ["46"], ["47"], ["48"]]),
         Group("6  Teacher and student in few steps", [["50"], ["21", "22"]])],
    ], [["36"], ["21", "22"]], folds=(*FOLDS, MEASURED)),
    Template("few_steps_rtdmd", "Post-train a model of few steps (RTDMD)", FEW, [
        [NOTE, Group("1  Model, prompts and rewards", [["1"], ["51"], ["28", "2", "52"]]),
         Group("2  How to sample and train", [["3"], ["4"], ["5"]])],
        ONLINE[1]], PICTURE, folds=(*FOLDS, FAST, OTHER_PROMPTS), bends=BACK),
    Template("preferences_without_a_reference_mapo", "Preferences without a reference (MaPO)", MAPO, ONLINE, PICTURE, folds=FOLDS),
    Template("improve_a_lora", "Improve a LoRA that you have", HAVE, [
        [NOTE, Group("1  Model, prompts and reward", [["1"], ["2"]]),
         Group("The LoRA that you have", [["51"]])],
        [Group("2  Go on from it", [["3"], ["4"], ["5"]]), Group(LOOP, [["6"], ["7", "8"], ["9", "10"], ["11"]]), KEEP],
        [COMPARE]], PICTURE, folds=(*FOLDS, LORA_BELOW), bends=BACK),
)

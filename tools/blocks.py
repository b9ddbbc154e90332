"""The shipped blocks: a training, or what is looked at after it, as one node of ComfyUI's node library."""

from __future__ import annotations

from .block import Block
from .template import Fold

OUTPUTS = {"model": "10.0", "LoRA": "9.1", "curve": "8.2"}
OF_A_LOOP = {"model": "13.0", "LoRA": "12.1", "curve": "11.2"}
PROMPTS, GOAL = ("own_sd15", "2"), ("own_sd15", "7")  # a user's own: prompts to write, a goal to choose
REWARD = "PTRewardCLIP"  # of several to choose from
SAVED = "posttrain/{run}"
NAMES = ("PostTrain", "后训练", "LoRA")

TRAIN_WITH = Fold(
    "51", "Train with a reward",
    {"model": ["4.model"], "prompts": ["2.text"], "clip": ["3.clip"], "vae": ["8.vae"], "width": ["5.width"],
     "height": ["5.height"], "pictures at once": ["5.batch_size"], "goal": ["7.goal"], "folder or words": ["7.folder_or_words"],
     "run name": ["8.run_name"], "iterations": ["8.iterations"]},
    OUTPUTS, [["2"], ["3", "6"], ["4"], ["5", "7"], ["8"], ["9", "10"]])  # fmt: skip
TRAIN_THROUGH = Fold(
    "51", "Train through a reward",
    {"model": ["3.model"], "clip": ["2.clip"], "vae": ["10.vae"], "prompts": ["60.text"], "width": ["4.width"],
     "height": ["4.height"], "pictures at once": ["4.batch_size"], "reward": ["8.kind"], "run name": ["6.run_name"],
     "iterations": ["6.iterations"]},
    OF_A_LOOP, [["60"], ["2", "5"], ["3"], ["4", "8"], ["6"], ["10"], ["11"], ["12", "13"]])  # fmt: skip
FROM_PAIRS = Fold(
    "51", "Learn from pairs",
    {"model": ["3.model"], "clip": ["27.clip"], "vae": ["27.vae"], "folder": ["26.folder"], "width": ["27.width"],
     "height": ["27.height"], "pictures at once": ["7.batch_size"], "run name": ["6.run_name"], "iterations": ["6.iterations"]},
    OF_A_LOOP, [["5", "26"], ["3"], ["27"], ["6"], ["7"], ["10"], ["11"], ["12", "13"]])  # fmt: skip
MY_TASTE = Fold(
    "51", "Teach it my taste",
    {"model": ["3.model"], "clip": ["2.clip"], "vae": ["7.vae"], "prompts": ["60.text"], "choose": ["25.mode"],
     "width": ["4.width"], "height": ["4.height"], "pictures at once": ["4.batch_size"], "run name": ["6.run_name"],
     "iterations": ["6.iterations"]},
    OF_A_LOOP, [["60"], ["2", "5"], ["3"], ["4", "25"], ["6"], ["7"], ["8", "9"], ["10"], ["11"], ["12", "13"]])  # fmt: skip
BEFORE_AND_AFTER = Fold(
    "50", "Before and after",
    {"model": ["17.model"], "trained model": ["18.model"], "clip": ["14.clip", "15.clip"], "vae": ["19.vae", "20.vae"],
     "prompt": ["14.text"], "width": ["16.width"], "height": ["16.height"], "pictures": ["16.batch_size"],
     "steps": ["17.steps", "18.steps"], "guidance": ["17.cfg", "18.cfg"]},
    {"before": "19.0", "after": "20.0"}, [["14", "15", "16"], ["17", "18"], ["19", "20"]],
    "Before and after, a block")  # fmt: skip
SCORE = Fold(
    "51", "Score and compare",
    {"model": ["30.model"], "clip": ["40.clip"], "vae": ["43.vae"], "LoRA": ["30.lora_model"], "LoRA file": ["30.lora"],
     "prompts": ["60.text"], "reward": ["61.kind"], "width": ["41.width"], "height": ["41.height"],
     "pictures of each": ["41.images_per_prompt"]},
    {"before": "43.2", "after": "43.1", "in words": "43.3"}, [["60"], ["30", "40"], ["41", "61"], ["43"]])  # fmt: skip

HELD_OUT = (
    "a lighthouse on a cliff at dusk\na violin on a red chair\na bridge over a frozen river\na child blowing soap bubbles"
)

BLOCKS = (
    Block(
        "own_sd15", TRAIN_WITH,
        "Trains any image model towards a goal that you choose, by a reward that looks at its pictures (DiffusionNFT). The LoRA is saved in models/loras/posttrain. "
        "Every number inside is the one recommended for your model.",
        "选择一个目标，用会看图的奖励来训练任何图像模型（DiffusionNFT）。LoRA 保存在 models/loras/posttrain。里面的每个数字都是为你的模型推荐的。",
        (*NAMES, "用奖励训练", "DiffusionNFT", "reinforcement learning", "强化学习"),
        {"2": PROMPTS, "7": GOAL, "6": ("learn_to_follow_prompts_nft", "5")},
        values={"5.batch_size": 1, "9.file_name": SAVED}),
    Block(
        "follow_a_rewards_gradient_draft", TRAIN_THROUGH,
        "Trains along a reward's gradient, through the sampler (DRaFT): few pictures, quick, and strong. The LoRA is saved in "
        "models/loras/posttrain.",
        "沿着奖励的梯度、穿过采样器来训练（DRaFT）：图片少，快，效果强。LoRA 保存在 models/loras/posttrain。",
        (*NAMES, "穿过奖励训练", "DRaFT", "奖励的梯度"),
        {"60": PROMPTS}, {"2.prompts": ("60", 0)},
        {"4.batch_size": 1, "8.batch_size": 4, "12.file_name": SAVED}, {"8": REWARD}),
    Block(
        "learn_from_pairs_diffusion_dpo", FROM_PAIRS,
        "Learns from pairs of pictures of which you prefer one (Diffusion-DPO): a folder in ComfyUI's input folder with win and lose in "
        "it. The LoRA is saved in models/loras/posttrain.",
        "从成对的图片里学习你更喜欢哪一张（Diffusion-DPO）：ComfyUI 的 input 里的一个文件夹，里面有 win 和 lose。LoRA 保存在 "
        "models/loras/posttrain。",
        (*NAMES, "从成对图片学习", "Diffusion-DPO", "preference"),
        values={"7.batch_size": 1, "12.file_name": SAVED}),
    Block(
        "teach_it_your_taste", MY_TASTE,
        "You are the reward: the page shows pictures of a prompt, you choose the best and the worst, and the model learns from it "
        "(Diffusion-DPO). The LoRA is saved in models/loras/posttrain.",
        "你就是奖励：页面显示同一提示词的图片，你选出最好和最差的，模型从中学习（Diffusion-DPO）。LoRA 保存在 models/loras/posttrain。",
        (*NAMES, "教它我的品味", "Diffusion-DPO", "rate by hand", "手动评分"),
        {"60": PROMPTS}, {"2.prompts": ("60", 0)},
        {"4.prompts_per_iteration": 6, "4.images_per_prompt": 9, "4.transition": "deterministic", "4.batch_size": 1,
         "6.iterations": 10, "9.pairs": "all pairs", "11.samples_every": 1, "12.file_name": SAVED}),
    Block(
        "own_sd15", BEFORE_AND_AFTER,
        "Pictures of a prompt by the model before training and after it, from the same noise.",
        "同一提示词、同样的噪声：训练之前的模型和训练之后的模型画出的图片。",
        (*NAMES, "训练前后对比", "compare")),
    Block(
        "faster_after_dpo_lcm", SCORE,
        "Scores a LoRA on prompts that it was not trained on, beside the model without it, from the same noise. Wire a LoRA, or choose "
        "its file.",
        "在没有训练过的提示词上，用同样的噪声，给一个 LoRA 和不带它的模型打分。接上一个 LoRA，或者选择它的文件。",
        (*NAMES, "评分与比较", "evaluate", "评估"),
        {"60": PROMPTS}, {"40.prompts": ("60", 0), "43.reward": ("61", 0)},
        {"41.batch_size": 1, "41.prompts_per_iteration": 4, "41.images_per_prompt": 4, "41.transition": "deterministic",
         "60.text": HELD_OUT, "61.batch_size": 4}, {"61": REWARD}),
)  # fmt: skip

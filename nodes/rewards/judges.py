"""Vision-language models as judges: the model (in process or a server), and what it is asked."""
from __future__ import annotations

from ..page.address import check_and_ask
from .node import ModelNode, RewardNode, model_input, precision_input

VLM = "PT_VLM"
VLM_TIP, MODEL_TIP = "From VLM in ComfyUI or VLM Server.", "For VLM Reward and VLM Pair Reward."


class PTVLMLocal(ModelNode):
    DESCRIPTION = "A Qwen2-VL, Qwen2.5-VL or Qwen3-VL folder, run inside ComfyUI under its memory management. Differentiable."
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = (VLM,), ("vlm",), (MODEL_TIP,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": model_input("reward_models", "LLM", folder=True, tooltip=
                    "A folder in models/reward_models or models/LLM with config.json, tokenizer and weights."),
            "megapixels": ("FLOAT", {"default": 0.2, "min": 0.01, "max": 4.0, "step": 0.01, "tooltip":
                                     "Images are brought to about this size. More sees finer detail and is slower."}),
            "precision": precision_input()}}

    def run(self, model, megapixels, precision):
        from ...rewards.learned.holder import find_model, shared
        from ...rewards.vlm.local import FOLDER, LocalModel, build_judge
        folder = find_model(FOLDER, model)
        return (LocalModel(shared(folder, "vlm", lambda: build_judge(folder), precision), folder, int(megapixels * 1e6)),)


class PTVLMServer(RewardNode):
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = (VLM,), ("vlm",), (MODEL_TIP,)
    DESCRIPTION = ("A vision-language model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, LM Studio, "
                   "Ollama). Images and prompts are sent there: to another machine only after you have allowed it. A key "
                   "is taken from the environment variable POSTTRAIN_VLM_KEY, and only sent to the address in POSTTRAIN_VLM_URL.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "url": ("STRING", {"default": "http://127.0.0.1:8000/v1", "tooltip": "The server's address, up to /v1; several "
                    "with commas between them share the questions. You are asked once about one of another machine "
                    "(docs/security.md)."}),
            "model": ("STRING", {"default": "", "tooltip": "The model's name as the server knows it."}),
            "timeout": ("FLOAT", {"default": 60.0, "min": 1.0, "max": 3600.0, "step": 1.0, "tooltip":
                                  "Seconds for one answer before it is asked for again."}),
            "tries": ("INT", {"default": 4, "min": 1, "max": 100, "tooltip":
                    "How often a question is asked, with growing pauses, before its image counts as failed. If most "
                    "fail, the run stops with its state saved."}),
            "at_once": ("INT", {"default": 8, "min": 1, "max": 256, "tooltip": "Questions in flight at a time."}),
            "image_side": ("INT", {"default": 768, "min": 64, "max": 4096, "step": 8, "tooltip":
                                   "Larger images are made smaller before they are sent."})},
            "optional": {"samples": ("INT", {"default": 4, "min": 1, "max": 64, "tooltip":
                    "Only for servers that give no probabilities: each question is asked this often, and the share of "
                    "an answer counts as its probability. More is finer and slower."})}}

    def run(self, url, model, timeout, tries, at_once, image_side, samples=4):
        from ...rewards.vlm.address import addresses
        from ...rewards.vlm.server import Server
        for each in addresses(url):
            check_and_ask(each)
        return (Server(url.strip(), model.strip(), timeout, tries, at_once=at_once, side=image_side, samples=samples),)


class PTRewardVLM(RewardNode):
    DESCRIPTION = "Asks a vision-language model about each image and takes the probability of its answer as the score."

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.vlm.judge import AVERAGES, KINDS
        return {"required": {
            "vlm": (VLM, {"tooltip": VLM_TIP}),
            "kind": (list(KINDS), {"tooltip": "yes or no: share of yes. VQAScore: probability of yes. rating: "
                                              "expected value of 1 to 5. questions: those in the prompts' records, "
                                              "each with its right answer."}),
            "question": ("STRING", {"default": "", "multiline": True, "tooltip":
                    "Empty = a good default. {prompt} stands for the image's prompt, {question} for a question of "
                    "its record."}),
            "average": (list(AVERAGES), {"tooltip": "For several questions: with the geometric mean one wrong "
                                                    "answer spoils all."})}}

    def run(self, vlm, kind, question, average):
        from ...rewards.vlm.judge import JudgeReward
        return (JudgeReward(vlm, kind, question, average),)


class PTRewardVLMPairs(RewardNode):
    DESCRIPTION = ("Compares the images of each prompt pair by pair, in both orders, and scores how often an image "
                   "wins. Hard to exploit, but many questions.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "vlm": (VLM, {"tooltip": VLM_TIP}),
            "question": ("STRING", {"default": "", "multiline": True, "tooltip":
                    "Empty = a good default. The answer must be 1 or 2; {prompt} stands for the prompt."}),
            "opponents": ("INT", {"default": 0, "min": 0, "max": 64, "tooltip":
                    "Each image meets this many others of its prompt; 0 = all of them."})}}

    def run(self, vlm, question, opponents):
        from ...rewards.vlm.judge import PairJudgeReward
        return (PairJudgeReward(vlm, question, opponents),)


NODES = {"PTVLMLocal": PTVLMLocal, "PTVLMServer": PTVLMServer, "PTRewardVLM": PTRewardVLM,
         "PTRewardVLMPairs": PTRewardVLMPairs}
NAMES = {"PTVLMLocal": "VLM in ComfyUI", "PTVLMServer": "VLM Server", "PTRewardVLM": "VLM Reward",
         "PTRewardVLMPairs": "VLM Pair Reward"}

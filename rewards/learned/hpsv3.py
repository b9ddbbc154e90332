"""HPSv3, arXiv:2508.03789: human preference from Qwen2-VL-7B with its own uncertainty. MIT (weights), Apache-2.0 (base).

A head on the hidden state of one special token gives mean and log deviation of the score; the reward is
mean - k * deviation, and the deviation is shown beside it. Unbounded: about -5..15; it rewards messy detail when trained
on directly, so normalise it and keep a monitor. 16.6 GB in half precision; differentiable, though a backward pass through
7 billion weights is heavy.
The folder needs HPSv3.safetensors, config.json and the tokenizer files of Qwen2-VL-7B-Instruct, and instruction.txt: the
text that HPSv3 was trained with, "{text_prompt}" where the prompt goes and <|Reward|> where the score is read.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.reward import Judgement, Prompt, RewardInfo
from .checkpoints import load_weights, with_prefix
from .files import Published
from .holder import Holder, in_batches
from .hub import transformers_class
from .qwen_vl import conversation, load_tokenizer, network_inputs, patches, read_vision

REWARD, PIXELS = "<|Reward|>", 256 * 28 * 28
NAME, UNCERTAINTY = "HPSv3", "uncertainty"
FOLDER = Published("HPSv3", ("*hpsv3*",), "HPSv3",
                   "HPSv3.safetensors of MizzenAI/HPSv3, config.json, preprocessor_config.json and the tokenizer files of "
                   "Qwen/Qwen2-VL-7B-Instruct, and instruction.txt (the node's help says how)",
                   "16.6 GB", "MIT and Apache-2.0", folder=True)


class Rated(nn.Module):
    """The language model with vision; head: [weight, bias] of each layer of the rating head, kept in float32."""

    def __init__(self, network: nn.Module, head: list[tuple[Tensor, Tensor]]):
        super().__init__()
        self.network, self.head = network, head


class HPSv3Reward:
    """holder: of the Rated that build_hpsv3 makes. caution: k in mean - k * deviation, 0 = the published score."""

    def __init__(self, holder: Holder, folder: Path, caution: float = 0.0, batch_size: int = 4):
        self._holder, self._folder, self._k, self._batch_size = holder, folder, caution, batch_size
        self._tokenizer = self._instruction = None
        less = f" less {caution:g} x its uncertainty" if caution else ""
        self.info = RewardInfo(NAME, None, None, True, True, f"Human preference (7B model){less}; about -5..15.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        mean, deviation = self.rate(images, prompts)
        return mean - self._k * deviation

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
        """The score, and beside it how unsure the model is of it, in the same units."""
        mean, deviation = self.rate(images, prompts)
        score = mean - self._k * deviation
        return Judgement(score, {NAME: score, UNCERTAINTY: deviation})

    def networks(self) -> list[Holder]:
        return [self._holder]

    def rate(self, images: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the score [B]."""
        return in_batches(images, prompts, self._batch_size, self._rated).unbind(1)

    def _rated(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """[B,2]: mean and deviation."""
        kind, vision = read_vision(self._folder)
        if self._tokenizer is None:
            self._tokenizer, self._instruction = reward_tokenizer(self._folder), read_instruction(self._folder)
        with self._holder.use() as (rated, device, dtype):
            pixels, grid = patches(images.to(device), vision, PIXELS)
            count = int(grid[0].prod()) // vision.merge**2
            texts = [conversation(kind, self._instruction.replace("{text_prompt}", p.text), [count]) for p in prompts]
            inputs = network_inputs(self._tokenizer, texts, device)
            hidden = rated.network(**inputs, pixel_values=pixels.to(dtype), image_grid_thw=grid).last_hidden_state
            at = inputs["input_ids"] == self._tokenizer.convert_tokens_to_ids(REWARD)
            return torch.stack(rating(hidden[at].float(), [(w.to(device), b.to(device)) for w, b in rated.head]), 1)


def rating(hidden: Tensor, head: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Hidden state of the reward token [B,D] -> mean and deviation [B]: linear layers with ReLU between them."""
    for i, (weight, bias) in enumerate(head):
        hidden = F.linear(F.relu(hidden) if i else hidden, weight, bias)
    return hidden[:, 0], hidden[:, 1].exp()


def build_hpsv3(folder: Path) -> Rated:
    """The network of the folder, frozen."""
    file = next((p for p in sorted(folder.glob("*.safetensors")) if "hpsv3" in p.name.lower()), None)
    if file is None:
        raise FileNotFoundError(f"HPSv3.safetensors is missing in {folder} (16.6 GB, of MizzenAI/HPSv3).")
    weights = load_weights(file)
    layers = sorted({int(k.split(".")[1]) for k in weights if k.startswith("rm_head.")})
    if not layers:
        raise ValueError(f"{file.name} is not HPSv3: it has no weights rm_head.*.")
    head = [(weights[f"rm_head.{i}.weight"].float(), weights[f"rm_head.{i}.bias"].float()) for i in layers]
    body = {f"visual.{k}": v for k, v in with_prefix(weights, "visual.").items()}
    body |= {f"language_model.{k}": v for k, v in with_prefix(weights, "model.").items()}
    try:
        network, report = _language_model(folder, body)
    except Exception as error:  # what the libraries say of a damaged config or of weights of another size
        raise ValueError(f"{file.name} could not be loaded: {error}. The folder needs the config.json of "
                         "Qwen2-VL-7B-Instruct and the complete file; download them again.") from error
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise ValueError(f"{file.name} does not fit the config.json beside it, such as {wrong[0]}: use that of "
                         "Qwen2-VL-7B-Instruct.")
    return Rated(network.train(False).requires_grad_(False), head).train(False)


def _language_model(folder: Path, body: dict[str, Tensor]) -> tuple[nn.Module, dict]:
    """The network of config.json with these weights, and which names did not fit."""
    config = transformers_class("AutoConfig").from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    config.get_text_config().vocab_size = body["language_model.embed_tokens.weight"].shape[0]
    return transformers_class("Qwen2VLModel").from_pretrained(
        None, config=config, state_dict=body, output_loading_info=True, dtype=body["language_model.norm.weight"].dtype)


def reward_tokenizer(folder: Path):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
    return tokenizer


def read_instruction(folder: Path) -> str:
    """instruction.txt, which must say where the prompt goes and where the score is read."""
    file = folder / "instruction.txt"
    text = file.read_text("utf-8") if file.is_file() else ""
    if "{text_prompt}" not in text or REWARD not in text:
        raise FileNotFoundError(f"HPSv3: {file} {'lacks {text_prompt} or ' + REWARD if text else 'is missing'}. HPSv3 scores "
                                "only with the text that it was trained with: save the values of INSTRUCTION and of "
                                "prompt_with_special_token, one after the other, from the package hpsv3 "
                                "(hpsv3/dataset/data_collator_qwen.py) in that file, line breaks included.")
    return text

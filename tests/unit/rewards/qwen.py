"""A tiny Qwen-VL folder: real classes, random weights, a word tokenizer with the family's special tokens."""
from __future__ import annotations

import json
from pathlib import Path

from .networks import randomised

WORDS = ["yes", "no", "Yes", "No", "1", "2", "3", "4", "5", "a", "cat", "dog", "red", "photo", "of", "rate", "system", "user",
         "assistant", "You", "are", "helpful", ".", "?", "two", "one"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]

VISION = dict(depth=2, num_heads=2, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
OWN_VISION = {"qwen2_vl": dict(embed_dim=32, hidden_size=64, mlp_ratio=2),
              "qwen2_5_vl": dict(hidden_size=32, out_hidden_size=64, intermediate_size=48, window_size=56,
                                 fullatt_block_indexes=[1]),
              "qwen3_vl": dict(hidden_size=32, out_hidden_size=64, intermediate_size=48, patch_size=16,
                               num_position_embeddings=64, deepstack_visual_indexes=[0])}


def tokenizer_folder(folder: Path) -> dict[str, int]:
    """Writes a fast tokenizer; returns the ids of the special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["[UNK]", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="<|im_end|>",
                                        additional_special_tokens=SPECIAL)
    tokenizer.save_pretrained(folder)
    return {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL}


def qwen_folder(folder: Path, kind: str = "qwen2_vl"):
    """Config, tokenizer and weights of a small model; returns the network."""
    import transformers as t

    folder.mkdir(parents=True)
    ids = tokenizer_folder(folder)
    prefix = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[kind]
    words = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 vocab_size=len(WORDS) + len(SPECIAL) + 1)
    if kind == "qwen3_vl":
        words = {"text_config": words | dict(head_dim=16, rope_scaling={"rope_type": "default", "mrope_section": [2, 3, 3],
                                                                        "mrope_interleaved": True})}
    else:
        words |= dict(max_window_layers=2, rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]})
    config = getattr(t, f"{prefix}Config")(
        **words, vision_config=VISION | OWN_VISION[kind], image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"], bos_token_id=ids["<|im_start|>"], eos_token_id=ids["<|im_end|>"],
        tie_word_embeddings=False)
    network = randomised(getattr(t, f"{prefix}ForConditionalGeneration")(config), scale=0.15)
    network.save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if kind == "qwen3_vl" else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return network

"""The micro LMM: the real Qwen2.5-VL architecture at about two million parameters.

Same classes, config type, special tokens, chat format and processor files as the 3B model, so every
path that runs on it is the real path. The shipped weights are made by `lmm-r1 build-base`
(build_base.py); `random_micro` writes a randomly initialised one in the published folder layout.
Architecture: arXiv 2502.13923 (windowed attention in the tower, M-RoPE, 2 x 2 merge).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from lmm_r1.disk import follow_umask

#: The shipped base model, a Hugging Face folder inside the package.
MICRO_DIR = Path(__file__).parent / "micro_base"

#: Control and media tokens, named as in Qwen2.5-VL.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
#: Whole tokens, but ordinary text: they survive decoding.
FORMAT_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")

#: Mean and standard deviation of the published image processor (the CLIP values).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

#: Qwen's message format: <|im_start|>role, newline, content, <|im_end|>, newline.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_FALLBACK_CORPUS = (
    "system user assistant Think first, then answer.",
    "What is the value of x? Find the perimeter of the triangle. The answer is 12.",
)


def micro_tokenizer(corpus: Iterable[str] | None = None, vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text encodes; digits and symbols are single tokens, as in Qwen."""
    tokenizer = Tokenizer(BPE(byte_fallback=False))
    words = Regex(r"\p{N}|[^\S\r\n]?\p{L}+|\s+|[^\s\p{L}\p{N}]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(FORMAT_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(corpus if corpus is not None else _FALLBACK_CORPUS * 8, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in FORMAT_TOKENS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def micro_config(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int = 128,
    layers: int = 4,
    intermediate: int = 384,
    vision_hidden: int = 96,
    vision_layers: int = 3,
    tie: bool = True,
) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL configuration with heads of 32 channels; the vocabulary is rounded up to 64."""

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    rows = -(-len(tokenizer) // 64) * 64
    text = {
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": max(1, hidden // 64),
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "tie_word_embeddings": tie,
    }
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_hidden,
        "intermediate_size": 2 * vision_hidden,
        "num_heads": vision_hidden // 32,
        "out_hidden_size": hidden,
        "window_size": 112,
        "fullatt_block_indexes": list(range(1, vision_layers)),
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=tie,
    )


def preprocessor_config(min_pixels: int = 28 * 28, max_pixels: int = 14 * 8 * 28 * 28) -> dict[str, object]:
    """preprocessor_config.json in the published layout."""
    return {
        "image_processor_type": "Qwen2VLImageProcessorPil",
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
    }


def save_micro(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights, configuration, tokenizer, chat template and processor files."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=[int(tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_end|>", "<|endoftext|>")],
        pad_token_id=int(tokenizer.convert_tokens_to_ids("<|endoftext|>")),
        do_sample=True,
        temperature=1.0,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(), indent=2) + "\n")
    follow_umask(folder)


def random_micro(folder: Path, seed: int = 0, **sizes: int | bool) -> Path:
    """Save a randomly initialised tiny Qwen2.5-VL (sizes as in `micro_config`) in the published layout."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MICRO_DIR) if _shipped() else micro_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(micro_config(tokenizer, **sizes))  # type: ignore[arg-type]
    save_micro(model, tokenizer, Path(folder))
    return Path(folder)


def _shipped() -> bool:
    return (MICRO_DIR / "tokenizer.json").is_file()

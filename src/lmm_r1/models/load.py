"""Model folders in the published Hugging Face layout: reading one, and writing one that any tool can read.

Only safetensors are read, never a pickle, and every fault becomes one line. Leaves out: checkpoints of a running
stage with optimiser state (runs/checkpoint.py) and everything particular to pictures (qwen_vl.py).
Source of the layout: https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct; of 4-bit weights: QLoRA, arXiv 2305.14314
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.utils import is_accelerate_available, is_bitsandbytes_available
from transformers.utils import logging as transformers_logging

from lmm_r1.disk import follow_umask, fsync, new_folder
from lmm_r1.errors import CheckpointError, Fault, first_line
from lmm_r1.models.folder_files import limit_pictures, neutral_generation, read_model_config, verify_files
from lmm_r1.models.lora import has_adapters, merged_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: What is fetched of a hub id: no pickles, no other framework's weights.
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: Files of a source folder that an export writes anew (or must not carry on).
_WRITTEN = re.compile(
    r"(config\.json|generation_config\.json|lmm_r1\.json|.*\.safetensors|.*\.safetensors\.index\.json)"
)
#: Files of a source folder that belong to its tokenizer and processor.
_CARRIED = re.compile(r".*\.(json|txt|jinja|model)")


def whole_float32() -> None:
    """Have this process compute convolutions of float32 in float32: on a GPU cuDNN would take TF32, with 10 bits for 23, and the
    first layer of every picture is a convolution."""
    torch.backends.cudnn.allow_tf32 = False


def resolve_folder(folder: str | Path) -> Path:
    """The local folder of a model: itself, or the downloaded copy of a hub id such as "Qwen/Qwen2.5-VL-3B-Instruct".

    CheckpointError when there is no such folder and no such id can be fetched.
    """
    path = Path(folder).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(str(folder)):
        raise CheckpointError(Fault("no such model folder", file=str(folder), remedy="give a folder or a hub id"))
    try:
        return Path(snapshot_download(str(folder), allow_patterns=list(_WANTED)))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise CheckpointError(
            Fault(f"no such model folder, and the hub gives none: {first_line(error)}", file=str(folder))
        ) from error


def checked_folder(folder: str | Path) -> Path:
    """`resolve_folder` of a model of our family with safetensors weights, which are those that were exported where the
    folder says so. CheckpointError for any other."""
    path = resolve_folder(folder)
    read_model_config(path)
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(Fault("holds no *.safetensors weights (other formats are never loaded)", file=str(path)))
    verify_files(path)
    return path


def load_model(
    folder: str | Path,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    gradient_checkpointing: bool = False,
    four_bit: bool = False,
) -> Qwen2_5_VLForConditionalGeneration:
    """The model of a folder or hub id, in evaluation mode, with SDPA attention.

    four_bit: the decoder's linear layers are held in 4 bits and computed in `dtype`; such a model can only be trained
    through adapters (lora.py). CheckpointError, in one line, when the folder is missing, of another family, truncated
    or incomplete, or when four_bit is asked for and bitsandbytes is not installed or does not run on the device.
    """
    path = checked_folder(folder)
    transformers_logging.disable_progress_bar()  # the terminal belongs to the live view
    more = _four_bit(DTYPES[dtype], device) if four_bit else {}
    try:
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **more,
        )
        if four_bit:
            _settle_four_bit(model)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        remedy = f"if bitsandbytes does not run on {device}, load without four_bit" if four_bit else ""
        message = f"the weights cannot be loaded: {first_line(error)}"
        raise CheckpointError(Fault(message, file=str(path), remedy=remedy)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(Fault(f"{len(missing)} weights are missing, the first is {missing[0]}", file=str(path)))
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.to(device).eval()


def load_tokenizer(folder: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with its chat template. CheckpointError when missing or broken."""
    path = resolve_folder(folder)
    if not (path / "tokenizer.json").is_file() and not (path / "vocab.json").is_file():
        raise CheckpointError(Fault("holds no tokenizer (tokenizer.json)", file=str(path)))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(Fault(f"the tokenizer cannot be loaded: {first_line(error)}", file=str(path))) from error
    if not tokenizer.chat_template:
        raise CheckpointError(Fault("the tokenizer has no chat template", file=str(path)))
    return tokenizer


def export_model(
    model: Qwen2_5_VLForConditionalGeneration,
    source_folder: str | Path,
    out_dir: str | Path,
    *,
    pictures: tuple[int, int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Path:
    """Write weights and configuration of `model`, and the tokenizer, template and processor files of its source.

    pictures: (min_pixels, max_pixels) of the training, for the processor files; None = as in the source. temperature, top_p: of
    the rollouts, for generation_config.json, which takes nothing but the ids of special tokens from the source.
    Adapters are merged and 4-bit weights widened on the way, so that the folder holds a plain model; `model` stays as
    it is, and a plain copy of it is held in memory meanwhile.
    All or nothing: everything is written and flushed beside `out_dir`, then renamed. An older export there is
    replaced. CheckpointError when the disk refuses.
    """
    source, out = resolve_folder(source_folder), Path(out_dir)
    transformers_logging.disable_progress_bar()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = new_folder(out.parent, f".{out.name}.")
        try:
            for file in sorted(source.iterdir()):
                if file.is_file() and _CARRIED.fullmatch(file.name) and not _WRITTEN.fullmatch(file.name):
                    shutil.copyfile(file, temporary / file.name)
            merge = has_adapters(model) or getattr(model, "is_loaded_in_4bit", False)
            plain = _plain_copy(model) if merge else model
            with _without_sampling(plain):
                plain.save_pretrained(temporary)
            neutral_generation(temporary, temperature, top_p)
            if pictures is not None:
                limit_pictures(temporary, *pictures)
            follow_umask(temporary)
            for file in temporary.iterdir():
                fsync(file)
            _replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(Fault(f"the model cannot be written: {first_line(error)}", file=str(out))) from error
    return out


def fill(model: nn.Module, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copy weights by name into a model. CheckpointError unless they are all of its own, each once."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights:
            own = parameters.pop(name, None)
            if own is None or own.shape != tensor.shape:
                raise CheckpointError(f"the weight {name} has no place in this model")
            own.copy_(tensor)
    if parameters:
        raise CheckpointError(f"the weights {', '.join(sorted(parameters)[:3])} are missing")


def _four_bit(dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
    """What from_pretrained needs for 4-bit weights (nf4, its scales quantised too) in the decoder's linear layers."""
    if not (is_bitsandbytes_available() and is_accelerate_available()):
        raise CheckpointError(
            Fault(
                "4-bit weights need the libraries bitsandbytes and accelerate",
                remedy='pip install "lmm-r1[qlora]", or train without four_bit',
            )
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "lm_head"],  # despite its name, for 4 bits as well
    )
    return {"quantization_config": config, "device_map": {"": torch.device(device)}}


def _settle_four_bit(model: nn.Module) -> None:
    """Fix the layout of 4-bit weights and read one back, which fails where bitsandbytes has no kernels."""
    quantised = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    for module in quantised:
        # Else some CPUs, at the first forward pass in evaluation mode, repack the weights in place with rounded
        # scales, for a kernel without a backward pass: the model would change, and merging it would fail.
        module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    dequantize_bnb_weight(quantised[0].weight)


def _plain_copy(model: Qwen2_5_VLForConditionalGeneration) -> Qwen2_5_VLForConditionalGeneration:
    """A model on the CPU with the merged weights of `model`, without adapters or 4-bit layers."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    weights = {name: weight.cpu() for name, weight in merged_weights(model)}
    plain.load_state_dict(weights, strict=False, assign=True)  # not strict: tied weights come once
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


@contextmanager
def _without_sampling(model: Qwen2_5_VLForConditionalGeneration) -> Iterator[None]:
    """Meanwhile the model has no sampling settings but its special ids: transformers refuses to write some that it reads."""
    kept = model.generation_config
    ids = {name: value for name, value in kept.to_dict().items() if name.endswith("token_id")}
    model.generation_config = GenerationConfig(**ids)
    try:
        yield
    finally:
        model.generation_config = kept


def _replace(temporary: Path, out: Path) -> None:
    """Rename `temporary` to `out`; what was there goes only once the new one can take its place."""
    old = temporary.with_name(temporary.name + ".old")
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    fsync(out.parent)
    if old.exists():
        shutil.rmtree(old)

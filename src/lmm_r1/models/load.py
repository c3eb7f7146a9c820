"""Model folders in the published Hugging Face layout: reading one, and writing one that any tool can read.

Only safetensors are read, never a pickle, and every fault becomes one line. Leaves out: checkpoints of a running
stage with optimiser state (runs/checkpoint.py) and everything particular to pictures (qwen_vl.py).
Source of the layout: https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from lmm_r1.errors import CheckpointError, Fault

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_TYPE = "qwen2_5_vl"
#: What is fetched of a hub id: no pickles, no other framework's weights.
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: Files of a source folder that an export writes anew (or must not carry on).
_WRITTEN = re.compile(r"(config\.json|generation_config\.json|.*\.safetensors|.*\.safetensors\.index\.json)")
#: Files of a source folder that belong to its tokenizer and processor.
_CARRIED = re.compile(r".*\.(json|txt|jinja|model)")


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
            Fault(f"no such model folder, and the hub gives none: {_first_line(error)}", file=str(folder))
        ) from error


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. CheckpointError when missing or broken."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(Fault("is missing: this is no model folder", file=str(path))) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(Fault(f"cannot be read: {_first_line(error)}", file=str(path))) from error
    if not isinstance(config, dict):
        raise CheckpointError(Fault("holds no JSON object", file=str(path)))
    return config


def load_model(
    folder: str | Path,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    gradient_checkpointing: bool = False,
) -> Qwen2_5_VLForConditionalGeneration:
    """The model of a folder or hub id, in evaluation mode, with SDPA attention.

    CheckpointError, in one line, when the folder is missing, of another family, truncated or incomplete.
    """
    path = resolve_folder(folder)
    kind = read_model_config(path).get("model_type")
    if kind != MODEL_TYPE:
        raise CheckpointError(Fault(f"model_type is {kind!r}, wanted {MODEL_TYPE!r}", file=str(path / "config.json")))
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(Fault("holds no *.safetensors weights (other formats are never loaded)", file=str(path)))
    transformers_logging.disable_progress_bar()  # the terminal belongs to the live view
    try:
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise CheckpointError(Fault(f"the weights cannot be loaded: {_first_line(error)}", file=str(path))) from error
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
        raise CheckpointError(Fault(f"the tokenizer cannot be loaded: {_first_line(error)}", file=str(path))) from error
    if not tokenizer.chat_template:
        raise CheckpointError(Fault("the tokenizer has no chat template", file=str(path)))
    return tokenizer


def export_model(model: Qwen2_5_VLForConditionalGeneration, source_folder: str | Path, out_dir: str | Path) -> Path:
    """Write weights and configuration of `model`, and the tokenizer, template and processor files of its source.

    All or nothing: everything is written and flushed beside `out_dir`, then renamed. An older export there is
    replaced. CheckpointError when the disk refuses.
    """
    source, out = resolve_folder(source_folder), Path(out_dir)
    transformers_logging.disable_progress_bar()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            temporary.chmod(0o755)
            for file in sorted(source.iterdir()):
                if file.is_file() and _CARRIED.fullmatch(file.name) and not _WRITTEN.fullmatch(file.name):
                    shutil.copyfile(file, temporary / file.name)
            model.save_pretrained(temporary)
            for file in temporary.iterdir():
                _flush(file)
            _replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(Fault(f"the model cannot be written: {_first_line(error)}", file=str(out))) from error
    return out


def _replace(temporary: Path, out: Path) -> None:
    """Rename `temporary` to `out`; what was there goes only once the new one can take its place."""
    old = temporary.with_name(temporary.name + ".old")
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    _flush(out.parent)
    if old.exists():
        shutil.rmtree(old)


def _flush(path: Path) -> None:
    """Force a file or folder onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__

"""What a chat template writes at the start of every reply, found without a tokenizer: a folder's template, rendered.

Some templates open the thoughts ("<think>") after the assistant's mark. The model then goes on from there, and its own tokens
never hold the tag. Rendered as transformers does it: jinja2's sandbox, with the same settings.
Leaves out: how a stream is tokenised (qwen_vl.py).
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmm_r1.errors import CheckpointError, Fault, first_line
from lmm_r1.models.folder_files import read_object

#: What the templates of the known families write before a reply.
MARK = "<|im_start|>assistant\n"
TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"


def reply_opening(folder: Path, system: str = "") -> tuple[str, Path]:
    """(what the template puts after the assistant's mark, the template's file); "" for a template with another mark.

    system: of the chat that is rendered, where it has one. CheckpointError when the template cannot be read or rendered.
    """
    text, path = _template(folder)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    said = [("system", system)] * bool(system) + [("user", "?")]
    chat = [{"role": role, "content": [{"type": "text", "text": words}]} for role, words in said]
    config = read_object(folder / CONFIG)
    tokens = {name: _token(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    try:
        rendered = environment.from_string(text).render(messages=chat, add_generation_prompt=True, **tokens)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        what = f"the chat template cannot be rendered: {first_line(error)}"
        raise CheckpointError(Fault(what, file=str(path))) from None
    return rendered.rpartition(MARK)[2] if MARK in rendered else "", path


def _template(folder: Path) -> tuple[str, Path]:
    """(text, file): the file of its own wins, as in transformers."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(Fault(f"cannot be read: {error}", file=str(path))) from None
    path = folder / CONFIG
    found = read_object(path).get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
    if not isinstance(found, str):
        raise CheckpointError(Fault("has no chat template that is a text", file=str(path), field="chat_template"))
    return found, path


def _token(value: Any) -> str:
    """A special token of tokenizer_config.json: a text, or a table with one."""
    text = value.get("content", "") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _refuse(message: str) -> None:
    raise TemplateError(message)

"""What a chat template writes at the start of every reply, found without a tokenizer: a folder's template, rendered.

Some templates open the thoughts ("<think>") after the assistant's mark. The model then goes on from there, and its own tokens
never hold the tag. Rendered as transformers does it: jinja2's sandbox, with the same settings.
Leaves out: how a stream is tokenised (qwen_vl.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmm_r1.errors import CheckpointError, Fault, first_line
from lmm_r1.models.folder_files import read_object

#: ChatML's beginning of a turn, and a reply's text that no message holds.
_TURN, _REPLY = "<|im_start|>", "\ue000reply\ue001"
#: What a template that somebody wrote may raise while it is rendered.
RENDERING = (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError)
TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"


def reply_opening(folder: Path, system: str = "") -> tuple[str, Path]:
    """(what the template puts after the assistant's mark, the template's file).

    system: of the chat that is rendered, where it has one. CheckpointError when the template cannot be read or rendered, or
    begins no reply.
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
    template: list[Any] = []

    def render(messages: Sequence[dict[str, Any]], begin_reply: bool) -> str:
        try:
            template[:] = template or [environment.from_string(text)]
            return str(template[0].render(messages=messages, add_generation_prompt=begin_reply, **tokens))
        except RENDERING as error:
            raise unrendered(error, str(path)) from None

    return opening_of(render, chat, render(chat, True), str(path)), path


def unrendered(error: BaseException, file: str) -> CheckpointError:
    """The error for a template that raised one of `RENDERING`."""
    return CheckpointError(Fault(f"the chat template cannot be rendered: {first_line(error)}", file=file))


def opening_of(
    render: Callable[[Sequence[dict[str, Any]], bool], str], chat: Sequence[dict[str, Any]], prompt: str, file: str
) -> str:
    """What the template writes behind the mark of the assistant's turn: the beginning of the reply.

    render: (messages, whether a reply is begun) to text; prompt: what it gives for the chat with a reply begun. The mark is ChatML's, which no text of a message can spell here. A
    template with other marks is asked how it writes an assistant's message, and what it does not write there is its beginning
    of the reply. CheckpointError when it writes a mark there, and none where a reply is to begin: the reply would go on in the
    user's turn.
    """
    header = prompt.rpartition(_TURN)[2]
    if _TURN in prompt and header.startswith("assistant"):
        return header.removeprefix("assistant").removeprefix("\n")
    before = render(chat, False)
    answered = [*chat, {"role": "assistant", "content": [{"type": "text", "text": _REPLY}]}]
    mark = render(answered, False).partition(_REPLY)[0].removeprefix(before)
    if prompt == before and mark.partition("<think>")[0].strip():
        what = f"the chat template begins no reply: it writes {mark[:60]!r} before an assistant's message, and not where one is to begin"
        raise CheckpointError(Fault(what, file=file, remedy="a template that does so under add_generation_prompt"))
    return prompt.removeprefix(before).removeprefix(mark)


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

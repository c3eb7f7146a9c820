"""Fields of an untrusted row: text, gold answer, options, pictures and conversations, each checked before it is used.

Whatever is wrong is a DataError whose fault names the field; `sources.problems_in` adds file and row.
Markers: `<image>` stands for the next picture, `<image2>` for the second one. A text with markers holds as many as
there are pictures, or the row is refused: a picture in another's place is worse than none. Media tokens spelled in a
text ("<|image_pad|>") are data and stay: models/qwen_vl.py encodes text so that none becomes a placeholder.
Left out: which field means what (published.py, sources.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

from lmm_r1.data.raw.rows import Row, unwritable
from lmm_r1.errors import DataError, Fault
from lmm_r1.types import Image, Message, Problem, Role, Text

#: Takes a picture into the store: its path, relative to where the pictures lie, or the bytes of its file.
Put = Callable[[str | bytes], Image]
#: (row, its number, put) -> Problem; raises DataError, and nothing else whatever the row.
Reader = Callable[[Row, int, Put], Problem]

_BOX = re.compile(r"\\boxed\s?\{")
_BRACE = re.compile(r"\\.|[{}]")
_MARKER = re.compile(r"<image(\d{0,3})>")
_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s*(.*)")
_CHOICES = "must be null or a list of texts"
_ANSWER, _END = "<answer>", "</answer>"
_LONGEST_WORKING = 100_000  # characters in which a box is looked for
_LONGEST_BOXED = 2_000  # characters; a longer answer is no answer of a rule, whatever it is wrapped in


def fault(field: str, message: str) -> DataError:
    """A fault of one field."""
    return DataError(Fault(message, field=field))


def named(row: Row, *names: str) -> str:
    """The first of several names of a field that the row has; the first one when it has none."""
    return next((name for name in names if row.get(name) is not None), names[0])


def string(row: Row, name: str, default: str | None = None) -> str:
    """A field that holds text."""
    value = row.get(name)
    value = default if value is None else value
    if not isinstance(value, str):
        raise missing(row, name) if value is None else fault(name, f"must be text, not {_kind(value)}")
    return value


def missing(row: Row, name: str) -> DataError:
    """The fault of a field that is not there, or null; it names the fields that the row has."""
    if name in row:
        return fault(name, "is missing")
    return DataError(
        Fault("is missing", field=name, remedy=f"the row has {', '.join(str(n)[:30] for n in list(row)[:8])}")
    )


def filled(row: Row, name: str) -> str:
    """A field that holds text other than spaces, without those around it."""
    value = string(row, name).strip()
    if not value:
        raise fault(name, "is empty")
    return value


def number_text(value: object) -> str | None:
    """A JSON number as the text that a person would write for it (7.0 is "7"); None for anything else."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**100 else None
    return None


def identity(row: Row, number: int, name: str = "id") -> str:
    """The id of a row: text, or a whole number; a row without one goes by its number."""
    value = row.get(name)
    if value is None:
        return f"row-{number}"
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    text = number_text(value) if whole else value
    if not isinstance(text, str):
        raise fault(name, f"must be text or a whole number, not {_kind(value)}")
    if not text.strip():
        raise fault(name, "is empty")
    return text.strip()


def known_identity(row: Row, number: int) -> str:
    """`identity`, or an empty string where the id cannot be read."""
    try:
        return identity(row, number)
    except DataError:
        return ""


def answer(row: Row, name: str = "answer") -> str:
    """The gold answer as text, without its working; a bare JSON number is one too."""
    return worked(row, name)[0]


def worked(row: Row, name: str = "answer") -> tuple[str, str]:
    """(gold answer, working in front of it, which may be empty).

    A gold with its working commits itself at its end: behind "####", in <answer> tags, or in its only box.
    """
    value = row.get(name)
    text = number_text(value) or value
    if not isinstance(text, str):
        raise missing(row, name) if value is None else fault(name, f"must be text or a number, not {_kind(value)}")
    if not text.strip():
        raise fault(name, "is empty")
    gold, working = _committed(text.strip(), name)
    if not gold:
        raise fault(name, "is empty behind its working")
    return gold, working


def _committed(text: str, name: str) -> tuple[str, str]:
    if "####" in text:
        working, _, gold = text.rpartition("####")
        if "####" in working or "\n" in gold.strip():
            raise fault(name, 'holds "####" and not one answer on one line behind it')
        return gold.strip(), working.strip()
    if text.endswith(_END) and text.count(_ANSWER) == 1:
        working, _, gold = text.removesuffix(_END).partition(_ANSWER)
        return gold.strip(), working.strip()
    if text.count("\\boxed") == 1 and len(text) <= _LONGEST_WORKING:
        at = text.index("\\boxed")
        boxed = _box_at(text, at)
        if boxed is not None and text[:at].strip(" $\n"):
            return boxed.strip(), text
    return text, ""


def _box_at(text: str, at: int) -> str | None:
    """What is in the box that opens there, if nothing but marks follows it."""
    opening = _BOX.match(text, at)
    end = _closing(text, opening.end()) if opening else None
    if opening is None or end is None or text[end:].strip(" $.\n"):
        return None
    return text[opening.end() : end - 1]


def _closing(text: str, start: int) -> int | None:
    """Where the brace that opened before `start` has been closed."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.end()
    return None


def _kind(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false",
        list: "a list",
        dict: "an object",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def place_gold(row: Row, name: str = "answer") -> str:
    """The gold of a box or point, which may be a list of numbers."""
    value = row.get(name)
    if not isinstance(value, list):
        return answer(row, name)
    texts = [number_text(item) for item in value]
    if None in texts or len(texts) not in (2, 4):
        raise fault(name, "must be two or four numbers, or a text")
    return f"[{', '.join(map(str, texts))}]"


def notes(row: Row, name: str = "meta") -> dict[str, Any]:
    """Further fields of a problem: an object that JSON can hold."""
    meta = row.get(name) or {}
    if not isinstance(meta, dict):
        raise fault(name, "must be an object")
    try:
        json.dumps(meta, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise fault(name, "holds what JSON cannot") from None
    return meta


def unboxed(text: str, field: str = "answer") -> str:
    """An answer without the $...$ and \\boxed{...} around it."""
    text = text.strip()
    while len(text) <= _LONGEST_BOXED:
        inner = _inside(text)
        if inner is None:
            break
        text = inner.strip()
    if not text:
        raise fault(field, "is empty")
    return text


def _inside(text: str) -> str | None:
    for mark in ("$$", "$"):
        if text.startswith(mark) and text.endswith(mark) and text.count("$") == 2 * len(mark):
            return text[len(mark) : -len(mark)]
    opening = _BOX.match(text)
    if opening is None or not text.endswith("}") or _closing(text, opening.end()) != len(text):
        return None
    return text[opening.end() : -1]


def choices(row: Row, name: str = "choices") -> tuple[str, ...] | None:
    """Option texts: null, a list of texts or numbers, {"A": text, "B": ...}, {"label": [...], "text": [...]}, or one of
    these written as JSON, as a CSV cell holds one, or "3|5|6"."""
    value = row.get(name)
    if isinstance(value, str):
        value = _written_choices(value.strip(), name)
    if value is None:
        return None
    if isinstance(value, dict):
        value = _lettered(value, name)
    if not isinstance(value, list) or not value:
        raise fault(name, _CHOICES)
    if len(value) > 26:
        raise fault(name, f"holds {len(value)} options; at most 26 have letters")
    texts = [option if isinstance(option, str) else number_text(option) for option in value]
    if None in texts:
        raise fault(name, f"{_CHOICES}: option {chr(65 + texts.index(None) % 26)} is {_kind(value[texts.index(None)])}")
    found = [text for text in texts if text is not None]
    if bad := unwritable(found, name):
        raise fault(*bad)
    return tuple(found)


def _written_choices(text: str, name: str) -> Any:
    """Options that are written in one text."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            quotes = ", with double quotes: it looks like Python's" if text[1:2] == "'" else ""
            raise fault(name, f"{_CHOICES}, written as JSON{quotes}") from None
    parts = [part.strip() for part in text.split("|")]
    if len(parts) < 2 or not all(parts):
        raise fault(name, f"{_CHOICES}; in a CSV cell a JSON list, or texts with | between them")
    return parts


def _lettered(options: dict[Any, Any], name: str) -> list[Any]:
    """The texts of options under their letters, which must be A, B, ... without a gap."""
    if set(options) == {"label", "text"} and all(isinstance(part, list) for part in options.values()):
        if len(options["label"]) != len(options["text"]):
            raise fault(name, f"has {len(options['label'])} labels for {len(options['text'])} texts")
        options = dict(zip(map(str, options["label"]), options["text"], strict=True))
    by_letter = {str(letter).strip().upper(): text for letter, text in options.items()}
    wanted = [chr(65 + n) for n in range(min(26, len(options)))]
    if sorted(by_letter) != wanted:
        shown = ", ".join(str(letter)[:20] for letter in list(options)[:6])
        raise fault(name, f"must name its options A, B, C, ... in a row, not {shown}")
    texts = [by_letter[letter] for letter in wanted]
    while texts and texts[-1] is None:  # a column of a table has all letters that any row has
        texts.pop()
    return texts


def with_options(question: str, options: Iterable[str]) -> str:
    """A question and its options, a line each: "A. text"."""
    return question + "".join(f"\n{chr(65 + n)}. {text}" for n, text in enumerate(options))


def options_in(question: str) -> tuple[str, ...] | None:
    """The options that a question ends with, a line each, labelled A, B, ... in order; None when there are none."""
    labels: list[str] = []
    found: list[str] = []
    for line in reversed(question.rstrip().rsplit("\n", 26)[-26:]):
        label = _LABEL.fullmatch(line)
        if not label or not label[3].strip():
            return None
        labels.insert(0, label[1] or label[2])
        found.insert(0, label[3].strip())
        if labels[0] == "A":
            in_order = len(found) > 1 and labels == [chr(65 + n) for n in range(len(found))]
            return tuple(found) if in_order else None
    return None


def kept(row: Row, *names: str) -> dict[str, Any]:
    """Fields worth keeping in a problem's meta: those that are there and hold text, a number or a truth."""
    found = {name: row[name] for name in names if isinstance(row.get(name), str | int | float)}
    return {n: v for n, v in found.items() if v != "" and not (isinstance(v, float) and not math.isfinite(v))}


def place(text: str, pictures: Sequence[Image], field: str) -> tuple[Text | Image, ...]:
    """Text with its pictures at their markers; without a marker one picture comes first. DataError when they differ."""
    pieces = _MARKER.split(text)
    texts, numbers = pieces[::2], pieces[1::2]
    if not numbers and len(pictures) == 1:
        texts, numbers = ["", text], [""]
    if len(numbers) != len(pictures):
        raise fault(field, f"holds {len(numbers)} <image> markers for {len(pictures)} pictures")
    order = list(range(len(numbers)))
    if any(numbers):
        order = [int(n) - 1 if n else -1 for n in numbers]
        if sorted(order) != list(range(len(pictures))):
            raise fault(field, f"its <image> markers do not name each of {len(pictures)} pictures once")
    content: list[Text | Image] = []
    for n, piece in enumerate(texts):
        if n:
            content.append(pictures[order[n - 1]])
        if piece.strip():
            # A space beside a picture belongs to the sentence; a line break only sets the picture apart.
            left = piece[: len(piece) - len(piece.lstrip())] if n else ""
            right = piece[len(piece.rstrip()) :] if n + 1 < len(texts) else ""
            content.append(Text(f"{_inline(left)}{piece.strip()}{_inline(right)}"))
    return tuple(content)


def _inline(spaces: str) -> str:
    return "" if "\n" in spaces else spaces


def pictures(row: Row, name: str, put: Put) -> list[Image]:
    """The pictures of a field: null, one or a list of paths (in a CSV cell a JSON list), bytes, or {"bytes": ..., "path":
    ...} as the hub stores."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise fault(name, "must be null, a path or a list of paths, written as JSON") from None
    items = [] if value is None else value if isinstance(value, list) else [value]
    return [put_one(_picture(item, name), put, name) for item in items]


def _picture(item: object, name: str) -> str | bytes:
    if isinstance(item, dict):
        data, path = item.get("bytes"), item.get("path")
        item = data if isinstance(data, bytes) else path
    if not isinstance(item, str | bytes) or not item:
        raise fault(name, "must be null, a path or a list of paths, or of the bytes of pictures")
    return item


def put_one(item: str | bytes, put: Put, field: str) -> Image:
    """A picture into the store; the fault of a bad one names the field and the path."""
    try:
        return put(item)
    except DataError as error:
        first = error.faults[0]
        # A picture in base64 says nothing to a reader.
        shown = f"{item[:200]}: " if isinstance(item, str) and not item.startswith("data:") else ""
        raise DataError(Fault(shown + first.message, field=field, remedy=first.remedy)) from None


def conversation(
    value: object, put: Put, field: str = "messages", path_of: Callable[[str], str] = str
) -> tuple[Message, ...]:
    """OpenAI-style messages. Parts of a content: {"type": "text", "text"}, {"type": "image", "image": path} and
    {"type": "image_url", "image_url": path or {"url": path}}.

    path_of: how a path is written in this data set.
    """
    if not isinstance(value, list) or not value:
        raise fault(field, "must be a list of at least one message")
    messages = tuple(_message(item, f"{field}[{n}]", put, path_of) for n, item in enumerate(value))
    if messages[-1].role != "user":
        raise fault(field, f"must end with the user's message, not the {messages[-1].role}'s")
    if any(message.role == "system" for message in messages[1:]):
        raise fault(field, "may hold a system message only at the beginning")
    return messages


def _message(item: Any, field: str, put: Put, path_of: Callable[[str], str]) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    if not isinstance(role, str) or role not in get_args(Role):
        raise fault(f"{field}.role", f"must be one of {', '.join(get_args(Role))}")
    parts = item.get("content")
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    if not isinstance(parts, list) or not parts:
        raise fault(f"{field}.content", "must be a text or a list of at least one part")
    content: list[Text | Image] = []
    for n, part in enumerate(parts):
        kind, said = _part(part, f"{field}.content[{n}]")
        content.append(Text(said) if kind == "text" else put_one(path_of(said), put, f"{field}.content[{n}]"))
    return Message(item["role"], _marked(content, f"{field}.content"))


def _part(part: Any, field: str) -> tuple[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    value = part.get(kind) if kind in ("text", "image", "image_url") else None
    if kind == "image_url" and isinstance(value, dict):
        value = value.get("url")
    if not isinstance(value, str):
        raise fault(field, 'must be {"type": "text", "text": ...} or {"type": "image", "image": path}')
    return str(kind), value


def _marked(content: list[Text | Image], field: str) -> tuple[Text | Image, ...]:
    """Content with literal <image> markers: as many as pictures, which then stand at their markers."""
    texts = [p.text for p in content if isinstance(p, Text)]
    if not any(_MARKER.search(text) for text in texts):
        return tuple(content)
    return place("\n".join(texts), [p for p in content if isinstance(p, Image)], field)

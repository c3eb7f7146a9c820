"""Reader of MathV360K: 360,000 questions about 40,000 pictures in 24 older sets, as LLaVA conversations -> Problem.

A question is "<image>\\nHint: ...\\nQuestion: ...\\nChoices:\\n(A) ...\\n(B) ...", its answer "The answer is X". Options become
lines "A. text" below the question, and a gold that spells an option becomes its letter. The source of a row is the
first folder of its picture's path.

Left out: the hints, which ask for another form of answer than the format reward does, and filtering (filters.py).
Source: https://huggingface.co/datasets/Zhiqiang007/MathV360K (train_samples_all_tuning.json, data_images.zip)
"""

from __future__ import annotations

import re

from lmm_r1.data.raw.fields import Put, fault, pictures, place, unboxed, with_options
from lmm_r1.data.raw.published import CHARTS, MATHV360K_SOURCES, NUMBER, domain_of, is_words
from lmm_r1.data.raw.rows import Row
from lmm_r1.types import Message, Problem

_THE_ANSWER = re.compile(r"(?:the )?answer(?: is)?\s?:?\s", re.IGNORECASE)
_LABELS = tuple(re.compile(rf"(?:^|\s)\({chr(65 + n)}\)") for n in range(26))
_WITH_LABEL = re.compile(r"\(?([A-Z])(?:[).:]+\s*(.*))?", re.DOTALL)
_ABBREVIATION = re.compile(r"(?:\.|\.[A-Za-z]|\b[A-Za-z]\.[A-Za-z])\.$")


def mathv360k(row: Row, number: int, put: Put) -> Problem:
    """Zhiqiang007/MathV360K: {id, image: "TabMWP/images/24069.png", conversations: [human, gpt]}.

    human: "<image>\\nHint: ...\\nQuestion: ...\\nChoices:\\n(A) ..."; gpt: "The answer is X". The options become lines
    "A. text", and a gold that spells an option becomes its letter. The source is the first folder of the path that is one.
    """
    asked, said = _two_turns(row)
    images = pictures(row, "image", put)
    marks = asked.count("<image>")
    if marks and marks != len(images):
        raise fault("conversations[0].value", f"holds {marks} <image> markers for {len(images)} pictures")
    if marks == 1:  # in front it only says that there is a picture; inside of a sentence it stays where it is
        asked = asked.strip().removeprefix("<image>")
    stem, _, block = asked.partition("\nChoices:")
    stem = stem.strip()
    if stem.startswith("Hint:"):
        stem = stem.partition("\n")[2].strip()
    question = stem.removeprefix("Question:").strip()
    if not question:
        raise fault("conversations[0].value", "asks nothing")
    options = _options(block) if block.strip() else None
    gold, path = _said(said), row.get("image")
    folders = path.split("/")[:-1] if isinstance(path, str) else []
    # The archive's own top folder may stand before the source's.
    source = next((part for part in folders if part in MATHV360K_SOURCES), folders[0] if folders else "MathV360K")
    if options:
        gold = _letter(gold, options)
        question = with_options(question, options)
    verifier = "choice" if options else "text" if is_words(gold) else "math"
    if verifier == "math" and source in CHARTS and NUMBER.fullmatch(gold):
        verifier = "numeric"
    return Problem(
        id=f"mathv360k-{number}",
        messages=(Message("user", place(question, images, "conversations[0].value")),),
        answer=gold,
        verifier=verifier,
        source=source,
        choices=options,
        domain=domain_of(source, question, bool(images)),
    )


def _two_turns(row: Row) -> tuple[str, str]:
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        raise fault("conversations", "must be one question and one answer")
    for n, speaker in enumerate(("human", "gpt")):
        if turns[n].get("from") != speaker:
            raise fault(f"conversations[{n}].from", f"must be {speaker}")
        if not isinstance(turns[n].get("value"), str):
            raise fault(f"conversations[{n}].value", "must be text")
    return turns[0]["value"], turns[1]["value"]


def _said(said: str) -> str:
    """What stands behind "The answer is"; a short reply without it is an answer too."""
    found = list(_THE_ANSWER.finditer(said + " "))
    gold = said[found[-1].end() :].strip() if found else said.strip()
    if not gold:
        raise fault("conversations[1].value", "holds no answer")
    if not found and (len(gold) > 100 or "\n" in gold):
        raise fault("conversations[1].value", 'does not say "The answer is"')
    # The full stop of the sentence, not that of "p.m." or of "...".
    ends = gold.endswith(".") and not _ABBREVIATION.search(gold[-8:])
    return unboxed(gold[:-1] if ends and len(gold) > 1 else gold, "conversations[1].value")


def _options(block: str) -> tuple[str, ...]:
    """Options "(A) text", labelled in order, on lines of their own or on one."""
    texts: list[str] = []
    start = 0
    for n in range(26):
        label = _LABELS[n].search(block, start)
        if label is None:
            break
        if n == 0 and block[: label.start()].strip():
            raise fault("conversations[0].value", "has text between Choices and the first option")
        if n:
            texts.append(block[start : label.start()].strip())
        start = label.end()
    if start:
        texts.append(block[start:].strip())
    if len(texts) < 2 or not all(texts):
        raise fault("conversations[0].value", "has Choices without two options that hold text")
    return tuple(texts)


def _letter(gold: str, options: tuple[str, ...]) -> str:
    """The letter of a gold that is one, or that spells exactly one option."""

    def plain(text: str) -> str:
        return " ".join(text.split()).casefold()

    spelled = {chr(65 + n) for n, text in enumerate(options) if plain(text) == plain(gold)}
    label = _WITH_LABEL.fullmatch(gold)
    named = {label[1]} if label and ord(label[1]) - 65 < len(options) else set()
    if label and named and label[2] and plain(label[2]) != plain(options[ord(label[1]) - 65]):
        named = set()
    if len(spelled | named) != 1:
        says = "could be several" if spelled | named else "is none"
        raise fault("conversations[1].value", f"{gold[:60]!r} {says} of the {len(options)} options")
    return next(iter(spelled | named))

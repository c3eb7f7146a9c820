"""Readers of published data sets: raw row -> Problem, one function a data set.

| source | data set (https://huggingface.co/datasets/...) | fields |
|---|---|---|
| rows, unified | any, under one set of names | id, source, question, choices, answer, image |
| deepscaler | agentica-org/DeepScaleR-Preview-Dataset | problem, answer, solution |
| message | VLM-Reasoner/VerMulti, VLM-Reasoner/deepscaler | message (messages, written as a string), question, answer |
| geometry3k | hiyouga/geometry3k | images, problem, answer; some copies: id, choices, ground_truth |
| mmk12 | FanqingM/MMK12 | id, question, answer, subject, image |
| virl39k | TIGER-Lab/ViRL39K | question, answer (boxed), image (paths), qid, category, source, pass rates |
| geoqa_r1v | leonardPKU/GEOQA_R1V_Train_8K | image, problem, solution (<answer>) |
| open_r1_8k | lmms-lab/multimodal-open-r1-8k-verified | image, problem, solution (<think>, <answer>), original_* |
| openai | any: messages as OpenAI's interface has them | messages, answer |

A gold letter beside options makes a `choice` problem, a word a `text` one, a number read off a chart a `numeric` one, and
everything else is `math`. Rows that no rule can check are left to the filters (filters.py).
Left out: MathV360K, whose rows need parsing of their own (mathv360k.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from lmm_r1.data.raw.fields import (
    Put,
    answer,
    choices,
    conversation,
    fault,
    filled,
    identity,
    kept,
    named,
    notes,
    options_in,
    pictures,
    place,
    place_gold,
    string,
    unboxed,
    with_options,
    worked,
)
from lmm_r1.data.raw.rows import Row, unwritable
from lmm_r1.errors import DataError, Fault
from lmm_r1.places import BOXES, numbers
from lmm_r1.types import Image, Message, Problem, Text

#: Sources of MathV360K (and of VerMulti, drawn from it), by the folder of their pictures.
MATHV360K_SOURCES = frozenset(
    "A-OKVQA AI2D CLEVR-Math ChartQA DVQA DocVQA FigureQA GEOS GeoQA+ Geometry3K IconQA KVQA MapQA PMC-VQA PlotQA "  # noqa: SIM905
    "ScienceQA Super-CLEVR TQA TabMWP TextVQA UniGeo VQA-AS VQA-RAD VQA2.0 VizWiz".split()
)
GEOMETRY = frozenset(("geometry3k", "geoqa", "geoqa+", "unigeo", "geos", "geo170k"))
#: A gold that was read off a picture is as exact as its digits say.
CHARTS = frozenset(("ChartQA", "DVQA", "PlotQA"))
#: A gold of words, and one that is a plain number.
WORDS = re.compile(
    r"(?:(?:an?|the) )?(?:yes|no|(?!sin|cos|tan|cot|sec|csc|log|exp)[a-z]{3,40})(?:[ -][a-z]{1,40}){0,20}",
    re.IGNORECASE,
)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?%?|-?\.\d+")

_IN_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\s?\{\s*([^{}]*?)\s*\}")
_LONGEST_WORDS = 300  # characters
_OF_MATHEMATICS = re.compile(
    r"(?:there (?:is|are) )?(?:no (?:real )?solutions?|infinity|all real numbers|(?:the )?empty set)|"
    r"(?:(?:minus|negative)[ -])?(?:{0})(?:[ -](?:and[ -])?(?:{0}))*".format(
        "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
        "seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million"
    ),
    re.IGNORECASE,
)
_BOX_ASKED = re.compile(r"\b(?:bounding[ -]?box|bbox)", re.IGNORECASE)
#: Questions about a picture whose four numbers are a place in it, though no box is named.
_PLACE_ASKED = re.compile(
    r"\b(?:where|locate|locali[sz]e|location|position|region|detect|pixels?|corners?|box)\b", re.IGNORECASE
)
_LETTER = re.compile(r"[A-J]")
_GEOMETRIC = re.compile(
    r"\b(?:triangles?|circles?|angles?|quadrilaterals?|parallelograms?|rectangles?|rhombus|trapezoids?|polygons?|"
    r"perpendicular|tangent|chords?|radius|diameter|perimeter|hypotenuse|bisects?|midpoint)\b|[∠△⊙⊥]",
    re.IGNORECASE,
)
_LABELS = re.compile(r"\(\s?(?:A|\\text(?:bf)?\{\(?A\)?\})\s?\)|\\text(?:bf)?\{\s?\(?A\)|(?:^|\n)A[.)]")


def domain_of(source: str, question: str, pictured: bool) -> str:
    """text without pictures; geometry by the name of the source or the words of the question; else perception."""
    if not pictured:
        return "text"
    name = source.rpartition("/")[2].casefold()
    if name in GEOMETRY or name.startswith(("geometry3k", "geoqa", "unigeo", "geo170k")):
        return "geometry"
    return "perception" if source in MATHV360K_SOURCES or not _GEOMETRIC.search(question) else "geometry"


def _problem(
    row: Row, identity: str, content: tuple[Text | Image, ...], gold: str, source: str, meta: dict[str, Any], field: str
) -> Problem:
    """One user message whose options, if any, stand in its text; the gold decides on the verifier."""
    text = "\n".join(p.text for p in content if isinstance(p, Text))
    if not text:
        raise fault(field, "is empty")
    verifier, options = judged(gold, text)
    return Problem(
        id=identity,
        messages=(Message("user", content),),
        answer=gold,
        verifier=verifier,
        source=source,
        choices=options,
        domain=domain_of(source, text, any(isinstance(p, Image) for p in content)),
        meta=meta,
    )


def judged(gold: str, text: str, field: str = "answer") -> tuple[str, tuple[str, ...] | None]:
    """(verifier, options) of a gold, given the question, which may end with options. DataError for a letter of none."""
    if len(gold) == 1 and "A" <= gold <= "Z":
        options = options_in(text)
        if options and ord(gold) - 65 >= len(options):
            raise fault(field, f"names option {gold} of {len(options)}")
        return ("choice", options) if options or _LABELS.search(text) else ("math", None)
    if _BOX_ASKED.search(text) and len(numbers(gold) or ()) == 4:
        return BOXES, None
    return ("text" if is_words(gold) else "math"), None


def is_words(gold: str) -> bool:
    """Whether a gold is words, perhaps in \\text{...}, and none that mathematics reads ("no solution")."""
    if len(gold) > _LONGEST_WORDS:
        return False
    inner = _IN_TEXT.fullmatch(gold)
    words = inner[1] if inner else gold
    return bool(WORDS.fullmatch(words)) and not _OF_MATHEMATICS.fullmatch(words)


def solution_of(text: object) -> dict[str, Any]:
    """A worked solution as meta, if there is one."""
    return {"solution": text} if isinstance(text, str) and text.strip() else {}


def unified(row: Row, number: int, put: Put) -> Problem:
    """{id, source, question, choices or options, answer, image or images}: any data set under one set of names.

    verifier: named where it is not what the answer looks like. meta: what that verifier wants to know.
    """
    options = choices(row, named(row, "choices", "options"))
    question = filled(row, "question")
    images = pictures(row, named(row, "image", "images"), put)
    in_numbers = (
        row.get("verifier") == BOXES or _BOX_ASKED.search(question) or (images and _PLACE_ASKED.search(question))
    )
    placed = (
        in_numbers and not options and (isinstance(row.get("answer"), list) or len(numbers(answer(row)) or ()) == 4)
    )
    gold, working = (place_gold(row), "") if placed else worked(row)
    if options and gold.isdecimal() and int(gold) <= len(options) and gold not in options:
        what = f"{gold} is none of the {len(options)} options: a position may count from 0 or from 1"
        raise DataError(Fault(what, field="answer", remedy="give the option's letter, or its text"))
    source = string(row, "source", "")
    geometric = any(word in source.casefold() for word in ("geo", "unigeo"))
    by_gold = "choice" if options or _LETTER.fullmatch(gold) else BOXES if placed else judged(gold, question)[0]
    return Problem(
        id=identity(row, number),
        messages=(Message("user", place(with_options(question, options or ()), images, "question")),),
        answer=gold,
        verifier=string(row, "verifier", by_gold),
        source=source,
        choices=options,
        domain="text" if not images else "geometry" if geometric else "perception",
        meta=solution_of(row.get("solution") or working)
        | kept(row, "licence", "split", "level", "subject")
        | (notes(row) if row.get("verifier") is not None else {}),
    )


def deepscaler(row: Row, number: int, put: Put) -> Problem:
    """agentica-org/DeepScaleR-Preview-Dataset: {problem, answer, solution}; 40,315 rows, a few without an answer.

    Rows of its copies under the names of `unified` are read as well.
    """
    if "problem" not in row and "question" in row:
        return unified(row, number, put)
    question = filled(row, "problem")
    gold = unboxed(answer(row))
    verifier, options = judged(gold, question)
    return Problem(
        id=f"deepscaler-{number}",
        messages=(Message("user", (Text(question),)),),
        answer=gold,
        verifier=verifier,
        source="DeepScaleR-Preview",
        choices=options,
        domain="text",
        meta=solution_of(row.get("solution")) | kept(row, "level", "subject"),
    )


def message(row: Row, number: int, put: Put) -> Problem:
    """VLM-Reasoner/VerMulti and VLM-Reasoner/deepscaler: {message, question, answer "$\\boxed{60}$", datasource}.

    The row's own system message stays, so a recipe's system prompt does not come on top of it.
    """
    written = string(row, "message")
    try:
        turns = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise fault("message", f"is not JSON: {error}") from None
    if bad := unwritable(turns):
        raise fault("message", bad[1])
    messages = conversation(turns, put, "message", _without_scheme)
    gold = unboxed(answer(row))
    text = "\n".join(p.text for p in messages[-1].content if isinstance(p, Text))
    if not text.strip():
        raise fault("message", "asks nothing")
    images = [p for m in messages for p in m.content if isinstance(p, Image)]
    source = (
        string(row, "datasource", "") or _folder_source(written) or ("VerMulti" if images else "DeepScaleR-Preview")
    )
    verifier, options = judged(gold, text)
    if verifier == "math" and source in CHARTS and NUMBER.fullmatch(gold):
        verifier = "numeric"
    return Problem(
        id=_named("message", number, written),
        messages=messages,
        answer=gold,
        verifier=verifier,
        source=source,
        choices=options,
        domain=domain_of(source, text, bool(images)),
        meta=solution_of(row.get("solution")) | kept(row, "level", "subject"),
    )


def _named(name: str, number: int, text: str) -> str:
    """An id for a row without one, which tells two files of the same kind apart."""
    return f"{name}-{number}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


def _without_scheme(path: str) -> str:
    return path.removeprefix("file://")


def _folder_source(written: str) -> str:
    """The source of MathV360K that a picture's path names, or an empty string."""
    path = re.search(r'"image": ?"([^"]*)"', written)
    return next((part for part in path[1].split("/") if part in MATHV360K_SOURCES), "") if path else ""


def geometry3k(row: Row, number: int, put: Put) -> Problem:
    """hiyouga/geometry3k: {images, problem with <image>, answer}; the options of some copies go into meta, since the
    question does not show them."""
    content = place(filled(row, "problem"), pictures(row, "images", put), "problem")
    options = choices(row)
    meta = ({"options": list(options)} if options else {}) | kept(row, "ground_truth")
    identity = f"geometry3k-{_id(row, 'id', number)}"
    return _problem(row, identity, content, unboxed(answer(row)), "hiyouga/geometry3k", meta, "problem")


def _id(row: Row, name: str, number: int) -> str:
    value = row.get(name)
    return str(value)[:200] if isinstance(value, str | int) and value != "" else str(number)


def mmk12(row: Row, number: int, put: Put) -> Problem:
    """FanqingM/MMK12: {id, question, answer, subject, image}."""
    content = place(filled(row, "question"), pictures(row, "image", put), "question")
    identity = f"mmk12-{_id(row, 'id', number)}"
    return _problem(row, identity, content, unboxed(answer(row)), "MMK12", kept(row, "subject"), "question")


def virl39k(row: Row, number: int, put: Put) -> Problem:
    """TIGER-Lab/ViRL39K: {qid, question with <image>, answer "\\boxed{..}", image: paths, category, source, pass rates}.

    About 850 rows lack the marker of their one picture, which then comes first.
    """
    content = place(filled(row, "question"), pictures(row, "image", put), "question")
    meta = kept(row, "category", "PassRate_32BTrained", "PassRate_7BUntrained")
    source = string(row, "source", "") or "ViRL39K"
    return _problem(row, f"virl39k-{_id(row, 'qid', number)}", content, unboxed(answer(row)), source, meta, "question")


def geoqa_r1v(row: Row, number: int, put: Put) -> Problem:
    """leonardPKU/GEOQA_R1V_Train_8K: {image, problem, solution "<answer> 145° </answer>"}."""
    content = place(filled(row, "problem"), pictures(row, "image", put), "problem")
    gold = _tagged(string(row, "solution"))
    return _problem(row, f"geoqa_r1v-{number}", content, gold, "GeoQA", {}, "problem")


def open_r1_8k(row: Row, number: int, put: Put) -> Problem:
    """lmms-lab/multimodal-open-r1-8k-verified: {image, problem, solution "<think>..</think><answer>..</answer>"}."""
    content = place(filled(row, "problem"), pictures(row, "image", put), "problem")
    written = string(row, "solution")
    meta = (solution_of(written) if "<think>" in written else {}) | kept(row, "original_question", "original_answer")
    return _problem(row, f"open_r1_8k-{number}", content, _tagged(written), "open-r1-8k", meta, "problem")


def _tagged(written: str) -> str:
    """The one answer between <answer> tags."""
    _, opened, rest = written.partition("<answer>")
    inside, closed, behind = rest.partition("</answer>")
    if not opened or not closed or "<answer>" in inside + behind:
        raise fault("solution", f"must hold one <answer>...</answer>, not {written.count('<answer>')}")
    return unboxed(inside, "solution")


def openai(row: Row, number: int, put: Put) -> Problem:
    """Messages as OpenAI's interface has them, and an answer. A last message of the assistant becomes the solution.

    Pictures are files: data: URIs and addresses are refused.
    """
    turns = row.get("messages")
    solution: dict[str, Any] = {}
    if (
        isinstance(turns, list)
        and len(turns) > 1
        and isinstance(turns[-1], dict)
        and turns[-1].get("role") == "assistant"
    ):
        solution = solution_of(turns[-1].get("content"))
        turns = turns[:-1]
    messages = conversation(turns, put, "messages", _without_scheme)
    gold = unboxed(answer(row))
    text = "\n".join(p.text for p in messages[-1].content if isinstance(p, Text))
    source = string(row, "source", "") or string(row, "datasource", "") or "openai"
    verifier, options = judged(gold, text)
    try:
        made = _named("openai", number, json.dumps(turns))
    except (TypeError, ValueError, RecursionError):
        raise fault("messages", "hold something other than text, numbers and lists") from None
    return Problem(
        id=made if row.get("id") in (None, "") else identity(row, number),
        messages=messages,
        answer=gold,
        verifier=verifier,
        source=source,
        choices=options,
        domain=domain_of(source, text, any(isinstance(p, Image) for m in messages for p in m.content)),
        meta=solution | kept(row, "level", "subject"),
    )

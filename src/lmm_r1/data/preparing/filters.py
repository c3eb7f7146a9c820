"""Which readable problems a rule can reward: one table of rules, each with a reason and a sentence that says why.

A reason is the key under which a drop is counted in the report; the first rule that fits gives it. "Free form" below is
a problem whose answer is neither an option letter nor a box. Faults of a row (unreadable picture, missing field) are
found earlier, by sources.py; golds are tried on their verifier by golds.py; rows are compared with each other by
duplicates.py and with evaluation questions by contamination.py.

Left out: filters by pass rate (a column of the data, `lmm-r1 difficulty`), and any rule that needs a model.
Sources: LMM-R1 (arXiv 2503.07536, A.1: plain numbers and option letters); Big-Math (arXiv 2502.17387: no proofs, no
several parts, no yes/no); the answer rules are those that the drops of public data sets come down to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lmm_r1.types import Problem, Text

MAX_ANSWER_CHARACTERS = 200
MAX_ANSWER_WORDS = 3
CHOICES = range(2, 11)

_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
_NUMBER = r"(-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?) ?%?"
_ASK = r"\s*(?:find|determine|prove|show|calculate|compute|what|which|how|if|solve|write|give|draw|state|explain)\b"

_PROOF = re.compile(r"^\s*(?:prove|show) that\b", re.IGNORECASE)
_PARTS = re.compile(r"\(\s?(?:1|a|i)\s?\).*\(\s?(?:2|b|ii)\s?\)", re.DOTALL)
_ASKED_PARTS = re.compile(
    rf"(?:\(1\){_ASK}.*\(2\)|\(a\){_ASK}.*\(b\)|\(i\){_ASK}.*\(ii\)){_ASK}", re.DOTALL | re.IGNORECASE
)
_APPROXIMATE = re.compile(
    r"\b(?:approximately|approx|about|around|roughly|nearly|almost|slightly|circa|more than|less than|fewer than|or so)\b"
    r"|\\approx\b|≈|^\s*[~∼]",
    re.IGNORECASE,
)
_RANGE = re.compile(
    rf"(?:from +|between +)?{_NUMBER} *(?:-|–|—|~|∼|to|and|through) *{_NUMBER}(?: ?[a-z]{{2,12}})?", re.IGNORECASE
)
_DATE = re.compile(
    rf"\b{_MONTH}\s+\d{{1,4}}(?:st|nd|rd|th)?\b|\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?![a-z])"
    r"|\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b|\b\d{1,2}[-/.]\d{1,2}[-/.]\d{4}\b",
    re.IGNORECASE,
)
_PHONE = re.compile(r"\+?(?:\d{1,2}[ .-])?\(?\d{3}\)?[ .-]\d{3,4}[ .-]\d{4}")
_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*(?=\{)|\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’][^\W\d_]+)?")
_BARE_LETTER = re.compile(r"\(?\s?([A-Z])\s?\)?[.:]?")
_PLAIN_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+−]?\.\d+")
_OPTION_LETTER = re.compile(r"[A-J]")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `drops(problem)` is true where it fits; `reason` counts, `why` explains the reason to a reader.

    field: of a row that it looks at.
    """

    reason: str
    why: str
    drops: Callable[[Problem], bool]
    field: str = "answer"


def question(problem: Problem) -> str:
    """All text of the user's messages."""
    return "\n".join(p.text for m in problem.messages if m.role == "user" for p in m.content if isinstance(p, Text))


def free_form(problem: Problem) -> bool:
    """Whether the answer is a value or words, not an option letter or a box."""
    return not problem.choices and problem.verifier not in ("choice", "boxes")


def asks_nothing(problem: Problem) -> bool:
    """No text at all: a picture alone asks nothing."""
    return not question(problem).strip()


def proof(problem: Problem) -> bool:
    """A proof has no short answer. The answer field, the kind of question and its first words are three separate
    marks of one: each is missing in some rows that have another."""
    marked = problem.answer.strip().casefold() in ("proof", "notfound", "not found")
    kind = str(problem.meta.get("question_type", "")).casefold() == "proof"
    return marked or kind or (free_form(problem) and bool(_PROOF.match(question(problem))))


def long_answer(problem: Problem) -> bool:
    """An essay, which no rule can check."""
    return len(problem.answer) > MAX_ANSWER_CHARACTERS


def several_parts(problem: Problem) -> bool:
    """Numbered parts in the answer, or parts of the question that each ask for something of their own.

    Numbered conditions or statements are no parts: what follows their numbers does not ask.
    """
    if _PARTS.search(problem.answer):
        return True
    return free_form(problem) and bool(_ASKED_PARTS.search(question(problem)))


def number_of_choices(problem: Problem) -> bool:
    """One option is no choice; more than ten have been cut wrongly, or have no letters in a prompt."""
    return problem.choices is not None and len(problem.choices) not in CHOICES


def equal_choices(problem: Problem) -> bool:
    """Two options that differ in spaces or case only make the letter a coin toss."""
    options = [" ".join(option.split()).casefold() for option in problem.choices or ()]
    return len(set(options)) < len(options)


def letter_out_of_range(problem: Problem) -> bool:
    """The gold names an option that is not there."""
    letter = _BARE_LETTER.fullmatch(problem.answer.strip())
    if problem.verifier != "choice" or not problem.choices or not letter:
        return False
    return ord(letter[1]) - ord("A") >= len(problem.choices)


def approximate(problem: Problem) -> bool:
    """An answer that says of itself that it is not exact."""
    return free_form(problem) and bool(_APPROXIMATE.search(problem.answer))


def date(problem: Problem) -> bool:
    """A day of the calendar, which is written in a dozen ways."""
    return free_form(problem) and bool(_DATE.search(problem.answer))


def phone_number(problem: Problem) -> bool:
    """Digits that are no number."""
    return free_form(problem) and bool(_PHONE.fullmatch(problem.answer.strip()))


def number_range(problem: Problem) -> bool:
    """Two plain numbers, the smaller first, with "to" or a dash between them: any value inside would be right.

    Intervals such as [2,5], differences such as 7-3 and expressions such as 1-2x are not meant.
    """
    found = _RANGE.fullmatch(problem.answer.strip())
    if not found or not free_form(problem):
        return False
    low, high = (float(found[k].replace(",", "").replace("$", "")) for k in (1, 2))
    return low < high


def sentence(problem: Problem) -> bool:
    """More than three words in the answer, names of LaTeX commands not counted."""
    return free_form(problem) and len(_WORD.findall(_COMMAND.sub(" ", problem.answer))) > MAX_ANSWER_WORDS


def unverifiable_answer(problem: Problem) -> bool:
    """Neither a plain number (123, 4.11, 1,200) nor an option letter, which are all that LMM-R1 trains on."""
    answer = problem.answer.strip()
    if free_form(problem):
        return not _PLAIN_NUMBER.fullmatch(answer)
    return not _OPTION_LETTER.fullmatch(answer)


def small_picture(side: int) -> Rule:
    """A rule: drop a problem with a picture whose shorter side is below `side` pixels."""
    return Rule(
        "small picture",
        f"A picture is less than {side} pixels high or wide: less than the model's smallest patch.",
        lambda problem: any(min(image.width, image.height) < side for image in problem.images),
        "image",
    )


#: What every data set goes through.
RULES: tuple[Rule, ...] = (
    Rule("empty question", "The question holds no text.", asks_nothing, "question"),
    Rule("proof", "Asks for a proof, which has no short answer to compare with.", proof),
    Rule("long answer", f"The answer has more than {MAX_ANSWER_CHARACTERS} characters.", long_answer),
    Rule("several parts", "Several parts are asked or answered at once; a rule checks one.", several_parts),
    Rule("number of choices", "Fewer than 2 or more than 10 options.", number_of_choices, "choices"),
    Rule("equal choices", "Two options are the same, so the letter is a coin toss.", equal_choices, "choices"),
    Rule("letter out of range", "The answer names an option that is not there.", letter_out_of_range),
    Rule("approximate answer", "The answer says that it is not exact (about, nearly, more than).", approximate),
    Rule("date", "The answer is a date, which is written in a dozen ways.", date),
    Rule("phone number", "The answer is a phone number.", phone_number),
    Rule("range", "The answer is a range of numbers; any value inside would be right.", number_range),
    Rule("sentence", f"The answer has more than {MAX_ANSWER_WORDS} words.", sentence),
)
#: The paper's own rule, behind the others.
VERIFIABLE = Rule(
    "no number or letter", "The answer is neither a plain number nor an option letter.", unverifiable_answer
)


def reason_to_drop(problem: Problem, rules: tuple[Rule, ...] = RULES) -> str | None:
    """The reason of the first rule that drops a problem, or None to keep it."""
    return next((rule.reason for rule in rules if rule.drops(problem)), None)

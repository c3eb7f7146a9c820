"""VerMulti and VerMulti-Geo from the rows of MathV360K: the paper's construction as steps that can be read and counted.

1. Read MathV360K: question, options as lines, gold behind "The answer is" (mathv360k.py).
2. Drop what no rule can check (filters.RULES, golds.py), pictures below 28 pixels, and rows that ask the same twice.
3. Keep golds that are plain numbers (123, 4.11) or option letters. The paper says no more; no pattern is published.
4. VerMulti-Geo alone: keep the sources GeoQA+, UniGeo, Geometry3K and GEOS, and of TQA the rows that speak of geometry.
   Table A5 lists 25 rows of TQA and no other source, so no other one is searched.
5. Shuffle the options with a seed, if asked. The paper does not say that it did.
6. Draw uniformly with a seed: 65,000 rows, the paper's number, or 16,810 for VerMulti-Geo, the sum of its table.
7. Label every row with one of PerceReason's four categories (vqa, document, math, science) in meta["category"].
   `domain` stays geometry or perception, which is what recipes select by.

The paper's text says that VerMulti-Geo comes from VerMulti, but its table holds more rows of GEOS (271) than VerMulti's
(129), so it must have been drawn from MathV360K, as its appendix says; so do we. The paper's 130,000 verifiable rows
before the draw, and its counts by source, stand beside ours in the report.

Left out: a choice by pass rate (the paper describes none; `lmm-r1 difficulty` measures it).
Sources: LMM-R1, arXiv 2503.07536, section 5.1, appendix A.1, tables A4 and A5; MathV360K, arXiv 2406.17294.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lmm_r1.data.preparing.filters import RULES, VERIFIABLE, Rule, question, small_picture
from lmm_r1.data.raw.fields import with_options
from lmm_r1.types import Image, Message, Problem, Text

MIN_SIDE = 28

#: Table A4: rows of VerMulti-65K by source; their sum is 65,118.
TABLE_A4: Mapping[str, int] = {
    "IconQA": 7166, "PMC-VQA": 6760, "TabMWP": 6732, "A-OKVQA": 6185, "FigureQA": 4995, "ScienceQA": 4243,
    "GeoQA+": 4062, "DVQA": 3317, "Geometry3K": 2845, "UniGeo": 2767, "AI2D": 2603, "CLEVR-Math": 2393, "TQA": 2130,
    "DocVQA": 1974, "TextVQA": 1462, "VQA2.0": 1316, "ChartQA": 1115, "PlotQA": 1020, "Super-CLEVR": 1016,
    "VQA-AS": 404, "MapQA": 278, "VizWiz": 204, "GEOS": 129, "VQA-RAD": 2,
}  # fmt: skip
#: Table A5: rows of VerMulti-Geo by source; their sum is 16,810.
TABLE_A5: Mapping[str, int] = {"GEOS": 271, "GeoQA+": 8155, "Geometry3K": 2776, "TQA": 25, "UniGeo": 5583}

GEOMETRY_SOURCES = frozenset(("GeoQA+", "UniGeo", "Geometry3K", "GEOS"))
KEYWORD_SOURCES = frozenset(("TQA",))
_GEOMETRY = re.compile(
    r"\b(?:triangles?|angles?|circles?|radius|radii|diameter|circumference|chords?|tangents?|perimeter|polygons?|"
    r"quadrilaterals?|rectangles?|squares?|rhombus|trapezoids?|trapeziums?|parallelograms?|perpendicular|hypotenuse|"
    r"bisectors?|midpoints?|congruent|vert(?:ex|ices)|cylinders?|prisms?|pyramids?|cubes?|spheres?)\b",
    re.IGNORECASE,
)

#: PerceReason's four domains. The paper names them and not which source is in which, so each has its ground.
CATEGORIES: Mapping[str, str] = {
    "A-OKVQA": "vqa",  # photographs and common knowledge
    "KVQA": "vqa",  # photographs of people, facts about them; not in VerMulti
    "Super-CLEVR": "vqa",  # objects in a drawn scene, compared or counted
    "TextVQA": "vqa",  # photographs with writing in them; the scene matters, so not a document
    "VizWiz": "vqa",  # photographs taken by blind people
    "VQA-AS": "vqa",  # abstract scenes
    "VQA2.0": "vqa",  # photographs
    "ChartQA": "document",  # charts of reports
    "DocVQA": "document",  # scanned pages
    "DVQA": "document",  # bar charts
    "FigureQA": "document",  # plots of scientific papers
    "MapQA": "document",  # coloured maps with a legend, read like a chart
    "PlotQA": "document",  # plots with real values
    "CLEVR-Math": "math",  # sums about objects in a scene
    "GEOS": "math",  # geometry of school tests
    "Geometry3K": "math",  # geometry of school books
    "GeoQA+": "math",  # geometry of school tests
    "IconQA": "math",  # counting and comparing in icons, primary school
    "TabMWP": "math",  # word problems about a table
    "UniGeo": "math",  # geometry of school tests
    "AI2D": "science",  # diagrams of primary school science
    "PMC-VQA": "science",  # figures of medical papers
    "ScienceQA": "science",  # school science
    "TQA": "science",  # lessons of middle school science
    "VQA-RAD": "science",  # radiology
}


def category(source: str) -> str:
    """vqa, document, math or science; "other" for a source that MathV360K does not have."""
    return CATEGORIES.get(source, "other")


def is_geometry(problem: Problem) -> bool:
    """By source, or, where geometry is a part of a source, by the words of the question and its options."""
    if problem.source in GEOMETRY_SOURCES:
        return True
    return problem.source in KEYWORD_SOURCES and bool(_GEOMETRY.search(question(problem)))


def labelled(problem: Problem) -> Problem:
    """The problem with its category in meta, and geometry found by words as its domain."""
    domain = "geometry" if is_geometry(problem) else problem.domain
    return replace(problem, domain=domain, meta={**problem.meta, "category": category(problem.source)})


def with_shuffled_choices(problem: Problem, seed: int) -> Problem:
    """Options in an order that is a pure function of (seed, id), in the text too, and the letter that goes with it.

    A problem without options, or whose text does not end with them as "A. text" lines, or with another gold than a
    single letter in range, is returned as it is.
    """
    choices, content = problem.choices, problem.messages[-1].content
    tail = with_options("", choices or ())
    last = next((k for k in reversed(range(len(content))) if isinstance(content[k], Text)), None)
    at = ord(problem.answer) - ord("A") if len(problem.answer) == 1 else -1
    if not choices or last is None or not 0 <= at < len(choices):
        return problem
    part = content[last]
    if isinstance(part, Image) or not ("\n" + part.text).endswith(tail):
        return problem
    digest = hashlib.blake2b(f"{seed}\0{problem.id}".encode(errors="replace"), digest_size=8).digest()
    order = [int(k) for k in np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(choices))]
    shuffled = tuple(choices[k] for k in order)
    text = (("\n" + part.text).removesuffix(tail) + with_options("", shuffled)).removeprefix("\n")
    message = Message(problem.messages[-1].role, (*content[:last], Text(text), *content[last + 1 :]))
    return replace(
        problem,
        messages=(*problem.messages[:-1], message),
        choices=shuffled,
        answer=chr(ord("A") + order.index(at)),
    )


@dataclass(frozen=True, slots=True)
class Construction:
    """A data set that is made from the rows of another: which reader, rules and labels, how many rows are drawn, and
    how many the paper has of each source."""

    reader: str
    rules: tuple[Rule, ...]
    label: Callable[[Problem], Problem]
    sample: int
    table: str
    paper: Mapping[str, int]


_NOT_GEOMETRY = Rule(
    "no geometry", "VerMulti-Geo holds geometry alone.", lambda problem: not is_geometry(problem), "question"
)
_COMMON = (*RULES, VERIFIABLE, small_picture(MIN_SIDE))

CONSTRUCTIONS: Mapping[str, Construction] = {
    "vermulti": Construction("mathv360k", _COMMON, labelled, 65_000, "A4", TABLE_A4),
    "vermulti-geo": Construction("mathv360k", (_NOT_GEOMETRY, *_COMMON), labelled, 16_810, "A5", TABLE_A5),
}

"""Does a training row repeat an evaluation question? By its words, and where both have pictures by its picture too.

Words: runs of letters and digits, after NFKC and case folding; marks and LaTeX backslashes fall away. A row repeats a
question word for word ("exact"), or contains at least half of its different 8-grams of words ("near"): one shared
8-gram is nothing, since "where m and n are relatively prime positive integers" alone is several. Questions of fewer
than 8 words are compared whole, and not at all where only one of the two has pictures. Options behind a question do
not count as its words.

Pictures: 1,024 bits each, whether a grey copy of 33 x 32 pixels gets darker from one pixel to the next. Two are near
with at most 40 different bits. Where row and question both have pictures, a picture must be near and the question the
same but for spaces and marks: "Find x" with another diagram is another problem, and so is another angle of the same
diagram, though it shares most of its words. Such siblings, near pictures under any question ("image twins"), and near
questions with another picture are counted for the report and kept.

Left out: translations and rewordings, which need a model; cut-outs and mirror images, which no hash of the whole finds;
runs in languages that put no spaces between words (a sentence is one word there, so it is compared whole).
Sources: 8-grams as in open-r1 and s1, by containment since any shared one flags a seventh of DeepScaleR; the hash is
dHash (N. Krawetz, "Kind of Like That", 2013) at 32 x 32, as smaller ones take any two line drawings for the same.

Axis legend: E = evaluation questions, G = different 8-grams of all of them, P = pictures; a hash is uint64[16].
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from lmm_r1.data.images import Pixels
from lmm_r1.data.preparing.filters import question
from lmm_r1.data.raw.fields import options_in
from lmm_r1.types import Problem

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

CONTAMINATED = "contaminated"
WHY = {CONTAMINATED: "An evaluation question stands in this row: word for word, or at least half of its 8-word runs."}
GRAM = 8
CONTAINED = 0.5
NEAR_BITS = 40

_WORD = re.compile(r"[^\W_]+")
_HEADING = re.compile(r"\n\s*(?:choices|options)\s*:?\s*\Z", re.IGNORECASE)
#: Odd factors, so that a gram's hash depends on the order of its words. uint64[8].
_FACTORS = np.array([pow(0x9E3779B97F4A7C15, k + 1, 2**64) | 1 for k in range(GRAM)], np.uint64)
_BLOCK = 512


def stem(problem: Problem) -> str:
    """The question without the options that follow it."""
    text = question(problem).rstrip()
    options = options_in(text)
    if options:
        text = _HEADING.sub("", text.rsplit("\n", len(options))[0])
    return text


def words(text: str) -> list[str]:
    """Runs of letters and digits, compared as they are."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1 << 17)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(errors="replace"), digest_size=8).digest(), "little")


def _grams(hashes: UInt64) -> UInt64:
    """Hash of each run of 8 words, uint64[max(0, words - 7)]."""
    count = max(0, len(hashes) - GRAM + 1)
    total = np.zeros(count, np.uint64)
    for k, factor in enumerate(_FACTORS):
        total += hashes[k : k + count] * factor  # wraps around, as a hash may
    return total


def picture_hash(pixels: Pixels) -> UInt64:
    """uint64[16] of a picture uint8[H, W, 3]."""
    small = Pil.fromarray(pixels).convert("L").resize((33, 32), Pil.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.int16)
    return np.packbits(grey[:, 1:] < grey[:, :-1]).view(np.uint64)


def distances(a: UInt64, b: UInt64) -> NDArray[np.uint16]:
    """Different bits of every pair: uint64[m, 16] x uint64[n, 16] -> uint16[m, n]."""
    return np.bitwise_count(a[:, None, :] ^ b[None, :, :]).sum(axis=2, dtype=np.uint16)


@dataclass(frozen=True, slots=True)
class Question:
    """An evaluation question: its file's name, its id, its stem, and the hashes of its pictures uint64[P, 16]."""

    file: str
    id: str
    text: str
    pictures: UInt64


@dataclass(frozen=True, slots=True)
class Match:
    """A question that a row repeats: `share` of its 8-grams (1.0 when compared whole), word for word or not, and the
    different bits of the nearest pair of pictures (None where one of the two has none)."""

    question: Question
    share: float
    exact: bool
    bits: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a row repeats: `matches` make it contaminated. Near in words but kept: `siblings` ask something else of a near
    picture, `other_picture` ask it of another one."""

    matches: tuple[Match, ...] = ()
    siblings: tuple[Match, ...] = ()
    other_picture: tuple[Match, ...] = ()


class Index:
    """Evaluation questions, ready to be looked up. The order in which they are given changes no result.

    has_pictures: whether the pictures of training rows are worth hashing.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self.questions = sorted(questions, key=lambda q: (q.file, q.id, q.text))
        self.has_pictures = any(len(q.pictures) for q in self.questions)
        self._whole: dict[str, list[int]] = {}
        owners: list[Int64] = []
        grams: list[UInt64] = []
        self._sizes = np.ones(len(self.questions))
        for number, item in enumerate(self.questions):
            said = words(item.text)
            if said:
                self._whole.setdefault("".join(said), []).append(number)
            mine = np.unique(_grams(np.array([_word_hash(w) for w in said], np.uint64)))
            self._sizes[number] = max(1, len(mine))
            grams.append(mine)
            owners.append(np.full(len(mine), number))
        every = np.concatenate(grams) if grams else np.zeros(0, np.uint64)
        order = np.argsort(every, kind="stable")
        self._owners = (np.concatenate(owners) if owners else np.zeros(0, np.int64))[order]
        self._grams, starts = np.unique(every[order], return_index=True)  # uint64[G], int64[G]
        self._starts = np.append(starts, len(every))

    def look_up(self, rows: Sequence[tuple[str, UInt64]]) -> list[Found]:
        """rows: (stem, hashes of its pictures uint64[P, 16]) -> what each repeats, in order."""
        said = [words(text) for text, _ in rows]
        near = self._near(said)
        return [
            self._found(mine, pictures, near.get(n, {}))
            for n, (mine, (_, pictures)) in enumerate(zip(said, rows, strict=True))
        ]

    def _found(self, said: Sequence[str], pictures: UInt64, near: dict[int, float]) -> Found:
        same = self._whole.get("".join(said), [])
        spelled = " ".join(said)
        kinds: tuple[list[Match], list[Match], list[Match]] = ([], [], [])
        for owner in sorted({*near, *same}):
            item = self.questions[owner]
            exact = owner in same and " ".join(words(item.text)) == spelled
            if len(item.pictures) and len(pictures):
                bits = int(distances(item.pictures, pictures).min())
                kind = 2 if bits > NEAR_BITS else 0 if owner in same else 1
                kinds[kind].append(Match(item, near.get(owner, 1.0), exact, bits))
            elif owner in near or (exact and (len(said) >= GRAM or len(item.pictures) == len(pictures))):
                kinds[0].append(Match(item, near.get(owner, 1.0), exact, None))
        return Found(*map(tuple, kinds))

    def _near(self, said: Sequence[Sequence[str]]) -> dict[int, dict[int, float]]:
        """Row -> {question: share of its 8-grams in the row}, where it is at least CONTAINED."""
        lengths = np.array([len(one) for one in said])
        if not len(self._grams) or not lengths.sum():
            return {}
        hashes = np.fromiter((_word_hash(w) for one in said for w in one), np.uint64, int(lengths.sum()))
        grams = _grams(hashes)
        row = np.repeat(np.arange(len(said)), lengths)
        within = row[: len(grams)] == row[GRAM - 1 :]  # runs that do not cross into the next row
        grams, row = grams[within], row[: len(within)][within]
        place = np.minimum(np.searchsorted(self._grams, grams), len(self._grams) - 1)
        hit = self._grams[place] == grams
        pairs = np.unique(row[hit] * len(self._grams) + place[hit])  # a gram counts once a row
        result: dict[int, dict[int, float]] = {}
        counts: dict[tuple[int, int], int] = {}
        for pair in pairs.tolist():
            number, gram = divmod(pair, len(self._grams))
            for owner in self._owners[self._starts[gram] : self._starts[gram + 1]].tolist():
                counts[number, owner] = counts.get((number, owner), 0) + 1
        for (number, owner), count in counts.items():
            if count >= CONTAINED * self._sizes[owner]:
                result.setdefault(number, {})[owner] = count / float(self._sizes[owner])
        return result


def image_twins(questions: Sequence[Question], training: UInt64, uses: Int64) -> dict[str, dict[str, int]]:
    """How many evaluation questions have a picture that is in the training data, whatever is asked of it.

    training: hashes of the different training pictures uint64[P, 16]; uses int64[P]: rows that show each.
    Returns {"exact": ..., "near": ...} with {"questions", "pictures", "rows"}: questions with such a picture, and the
    training pictures and rows on the other side. "exact" is no different bit, "near" includes it.
    """
    owner = np.repeat(np.arange(len(questions)), [len(q.pictures) for q in questions])
    asked = np.concatenate([np.zeros((0, 16), np.uint64), *(q.pictures for q in questions)])
    best = np.full(len(asked), 1024)
    seen = np.full(len(training), 1024)
    for start in range(0, len(asked), _BLOCK):
        for other in range(0, len(training), _BLOCK):
            bits = distances(asked[start : start + _BLOCK], training[other : other + _BLOCK])
            best[start : start + _BLOCK] = np.minimum(best[start : start + _BLOCK], bits.min(axis=1))
            seen[other : other + _BLOCK] = np.minimum(seen[other : other + _BLOCK], bits.min(axis=0))
    return {
        name: {
            "questions": len(np.unique(owner[best <= limit])),
            "pictures": int((seen <= limit).sum()),
            "rows": int(uses[seen <= limit].sum()),
        }
        for name, limit in (("exact", 0), ("near", NEAR_BITS))
    }

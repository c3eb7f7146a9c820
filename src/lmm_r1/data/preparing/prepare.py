"""Raw data set -> problems.jsonl, images/ and a report in which every row is kept or counted under one reason.

The rows go by four times, once from the input and then from a file beside the result, so that a million of them need
no more memory than a thousand: hashes and codes are all that is kept of each.

    read      row -> Problem; contamination, then the rules (filters.py), then the prompt's budget
    golds     each gold on its verifier, and on golds of other rows (golds.py)
    compare   duplicates and conflicting golds (duplicates.py), then the draw
    write     problems.jsonl, pictures, examples, report

The reasons rank in this order, and contamination ranks first: how much of a data set is an evaluation's is a fact of
its own. Nothing is written into the folder before all is done. The result is a pure function of the input, the options
and the evaluation files: not of the number of processes, nor of the order of those files.

Left out: downloads (hub.py), the page (reports/dropped.py, passed in).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing import budget as prompt_budget
from lmm_r1.data.preparing import contamination, duplicates, golds, ledger
from lmm_r1.data.preparing.against import EvaluationFile, hashes_of, merged
from lmm_r1.data.preparing.budget import Budget, fitted
from lmm_r1.data.preparing.contamination import CONTAMINATED, Found, Index, UInt64, image_twins, stem
from lmm_r1.data.preparing.delivery import PictureWriter, publish
from lmm_r1.data.preparing.examples import MOST, Examples, cut
from lmm_r1.data.preparing.filters import RULES, reason_to_drop, small_picture
from lmm_r1.data.preparing.ledger import Ledger, beside_paper, fault_reason
from lmm_r1.data.preparing.vermulti import CONSTRUCTIONS, with_shuffled_choices
from lmm_r1.data.raw.rows import open_file
from lmm_r1.data.raw.sources import SOURCES, Input, Prefix, Reader, Verifiers, problems_in, row_of
from lmm_r1.errors import DataError, Fault, RecipeError
from lmm_r1.types import Image, Message, Problem

BATCH = 512
#: The field that a reason is about, and what helps, where a rule does not say.
_FIELDS = {
    golds.UNKNOWN: "verifier",
    golds.NOT_ITSELF: "answer",
    golds.ACCEPTS_OTHERS: "answer",
}
_REMEDIES = {
    golds.NOT_ITSELF: 'a short value that the verifier reads; for words the verifier "text"',
    prompt_budget.TOO_LONG: "a larger --max-tokens",
    ledger.NOT_SAMPLED: "a larger --sample, or --sample 0 for all",
}
_WHY = golds.WHY | duplicates.WHY | contamination.WHY | ledger.WHY | prompt_budget.WHY


@dataclass(frozen=True, slots=True)
class Options:
    """What a preparation may be asked.

    sample: rows drawn at most; None = all, or the number of the construction; 0 = all. min_side: pixels of a picture's
    shorter side. budget: of a prompt. workers: processes for golds. shuffle_choices: options in a seeded order.
    images_from, prefixes: where pictures lie (sources.problems_in).
    """

    seed: int = 0
    sample: int | None = None
    min_side: int = 1
    budget: Budget | None = None
    shuffle_choices: bool = False
    workers: int = 1
    images_from: str | Path | None = None
    prefixes: Sequence[Prefix] = ()


def prepare(
    source: str,
    input: str | Path | Input,
    out_dir: str | Path,
    verifiers: Verifiers,
    images: ImageStore,
    options: Options = Options(),
    against: Sequence[EvaluationFile] = (),
    page: Callable[[Mapping[str, Any]], str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Read, filter and write a data set; returns the report, as it is in report.json.

    source: a key of SOURCES or CONSTRUCTIONS. verifiers: rewards.VERIFIERS. against: evaluation files. page: report ->
    report.html. Report: {"source", "input", "revision", "rows", "kept", "dropped": {reason: n}, "by_source": {name:
    {"kept": n, "dropped": {reason: n}}}, "by_category", "reasons": {reason: why}, "options", "against", "image_twins",
    "paper", "examples", "thumbnails", "first": {reason: the first row's fault}}.
    Raises RecipeError for an unknown source, DataError when the input cannot be read or nothing is kept.
    """
    if source not in SOURCES and source not in CONSTRUCTIONS:
        raise RecipeError(f"no data source '{source}' (there are: {', '.join([*SOURCES, *CONSTRUCTIONS])})")
    out = Path(out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    opened = input if isinstance(input, Input) else open_file(input)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as staging:
        job = _Job(source, opened, Path(staging), verifiers, images, options, against, say)
        with closing(job):
            job.read()
            job.try_golds()
            job.compare()
            job.write()
        report = job.report()
        if not report["kept"]:
            if not report["rows"]:
                raise DataError(Fault("holds no rows", file=opened.name))
            ranked = sorted(report["dropped"].items(), key=lambda kv: -kv[1])
            why = ", ".join(f"{reason} {n}" for reason, n in ranked)
            first, *others = [job.examples.first[reason] for reason, _ in ranked if reason in job.examples.first]
            what = f"none of its {report['rows']} rows can be used: {why}; the first fault: {first}"
            raise DataError(Fault(what, file=opened.name), *others)
        publish(Path(staging), out, report, page)
    return report


@dataclass(frozen=True, slots=True)
class _Read:
    """A row that was read: its number, the problem, the hashes of its pictures, and the reason of a rule or ""."""

    number: int
    problem: Problem
    hashes: UInt64
    reason: str


class _Job:
    """One preparation; its steps in their order, and what they hand on."""

    def __init__(
        self,
        source: str,
        input: Input,
        folder: Path,
        verifiers: Verifiers,
        images: ImageStore,
        options: Options,
        against: Sequence[EvaluationFile],
        say: Callable[[str], None],
    ) -> None:
        self._source, self._input, self._folder = source, input, folder
        self._verifiers, self._images, self._options, self._say = verifiers, images, options, say
        self._made = CONSTRUCTIONS.get(source)
        self._rules = self._made.rules if self._made else RULES
        if options.min_side > 1:
            self._rules = (*self._rules, small_picture(options.min_side))
        self._count = options.sample if options.sample is not None else self._made.sample if self._made else 0
        self._files = merged(against)
        self._index = Index(q for file in self._files for q in file.questions)
        self._flagged: Counter[str] = Counter()
        self._exact: Counter[str] = Counter()
        self._shrunk = 0  # rows whose pictures were made smaller
        self._hit: set[int] = set()  # questions that some row repeats
        self._beside: Counter[str] = Counter()
        self._hashes: dict[str, UInt64] = {}
        self._uses: Counter[str] = Counter()
        self._sampler = golds.Sampler(options.seed)
        self._sizes: dict[str, Image] = {}
        self._categories: Counter[str] = Counter()
        self.ledger = Ledger(options.seed)
        self.examples = Examples(images, folder / "images")
        self._writer = PictureWriter(images, folder / "images", options.workers)

    @property
    def _spill(self) -> Path:
        return self._folder / "rows.tmp"

    def close(self) -> None:
        """End the threads."""
        self._writer.close()

    # ---- read

    def read(self) -> None:
        """All rows, in batches: the ledger and the spilled lines."""
        reader: Reader = SOURCES[self._made.reader if self._made else self._source]
        rows = problems_in(self._input, self._images, None, reader, self._options.images_from, self._options.prefixes)
        batch: list[_Read] = []
        with self._spill.open("wb") as spill:
            for number, found in rows:
                if number % 50_000 == 0:
                    self._say(f"{number} rows read")
                read = found if isinstance(found, tuple) else self._looked_at(number, found)
                if not isinstance(read, _Read):
                    self._unread(number, read)
                    continue
                batch.append(read)
                if len(batch) >= BATCH:
                    spill.writelines(self._lines(batch))
                    batch.clear()
            spill.writelines(self._lines(batch))
        self.ledger.seal()
        self._say("all rows read")

    def _looked_at(self, number: int, problem: Problem) -> _Read | tuple[Fault, ...]:
        """What needs the pictures of a problem, while they are decoded."""
        reason = reason_to_drop(problem, self._rules) or ""
        hashes = np.zeros((0, 16), np.uint64)
        try:
            if self._index.has_pictures:
                hashes = hashes_of(problem, self._images, self._hashes)
            if not reason and self._options.budget is None and not self._count:
                for image in problem.images:
                    self._writer.save(image.sha)
        except DataError as error:  # a file that changed since it was read a moment ago
            return tuple(replace(fault, row=number, field="image") for fault in error.faults)
        return _Read(number, problem, hashes, reason)

    def _unread(self, number: int, faults: Sequence[Fault]) -> None:
        reason = fault_reason(faults[0])
        self.ledger.fault(reason)
        self.examples.fault(reason, number, faults)

    def _lines(self, batch: Sequence[_Read]) -> Iterator[bytes]:
        """The lines of a batch, one for each problem, kept or not; the ledger knows which."""
        found = [Found()] * len(batch)
        if self._files:
            found = self._index.look_up([(stem(read.problem), read.hashes) for read in batch])
        for read, match in zip(batch, found, strict=True):
            problem, reason = read.problem, self._contaminated(match) or read.reason
            self._uses.update({image.sha for image in problem.images})
            keys = duplicates.keys(problem)
            final: Problem | None = problem
            if not reason:
                try:
                    final = self._final(problem)
                    reason = "" if final else prompt_budget.TOO_LONG
                except DataError:  # the file of a picture that was to be made smaller has changed
                    final, reason = problem, "bad image"
            final = final or problem
            index = self.ledger.add(problem, read.number, reason, keys)
            if reason == CONTAMINATED:
                self.examples.note(index, match)
            elif not reason:
                self._sampler.add(final.verifier, final.answer)
            self._sizes.update((image.sha, image) for image in final.images)
            row = row_of(final, lambda image: f"images/{image.sha}.png")
            yield json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n"

    def _contaminated(self, match: Found) -> str:
        for file in {m.question.file for m in match.matches}:
            self._flagged[file] += 1
            self._exact[file] += any(m.exact for m in match.matches if m.question.file == file)
        self._hit.update(id(m.question) for m in match.matches)
        if not match.matches:
            self._beside["sibling_rows"] += bool(match.siblings)
            self._beside["other_picture_rows"] += bool(match.other_picture)
        return CONTAMINATED if match.matches else ""

    def _final(self, problem: Problem) -> Problem | None:
        """The problem as it will be written: labelled, options shuffled, pictures made to fit; None if they do not."""
        final: Problem | None = self._made.label(problem) if self._made else problem
        assert final is not None
        if self._options.shuffle_choices:
            final = with_shuffled_choices(final, self._options.seed)
        if self._options.budget is not None:
            made = ImageStore(cache=0)
            final = fitted(final, self._images, self._options.budget, made)
            for image in final.images if final else ():
                if image.sha in made:
                    made.save_png(image.sha, self._folder / "images")
            self._shrunk += len(made) > 0
        return final

    # ---- golds, comparison, the draw

    def _spilled(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, bytes]]:
        with self._spill.open("rb") as spill:
            for index, line in enumerate(spill):
                if wanted(index):
                    yield index, line

    def _judged(self, row: Mapping[str, Any]) -> Problem:
        """What a verifier needs of a spilled row: everything but the text."""
        pictures = tuple(self._sizes[sha] for sha in row["image_sha"])
        options = row["choices"]
        return Problem(
            row["id"],
            (Message("user", pictures),),
            row["answer"],
            verifier=row["verifier"],
            source=row["source"],
            choices=tuple(options) if options is not None else None,
            domain=row["domain"],
            meta=row["meta"],
        )

    def try_golds(self) -> None:
        """Drop golds that fail on their verifier."""
        probes = self._sampler.probes(self._verifiers)
        live = self.ledger.live
        problems = (self._judged(json.loads(line)) for _, line in self._spilled(live.__getitem__))
        verdicts = golds.reasons(problems, self._verifiers, probes, self._options.workers)
        failed: dict[str, list[int]] = {}
        for index, reason in zip(np.flatnonzero(live).tolist(), verdicts, strict=True):
            if reason:
                failed.setdefault(reason, []).append(index)
        for reason, rows in failed.items():
            mask = np.zeros(len(live), bool)
            mask[rows] = True
            self.ledger.drop(mask, reason)
        self._say(f"{int(live.sum())} golds checked")

    def compare(self) -> None:
        """Drop rows that repeat or contradict others, then those that are not drawn."""
        books = self.ledger
        rows = set(duplicates.disputed(books.asked, books.gold, books.live).tolist())
        problems = {n: self._judged(json.loads(line)) for n, line in self._spilled(rows.__contains__)} if rows else {}
        twice, conflicting = duplicates.settle(books.asked, books.gold, books.live, problems, self._same)
        books.drop(conflicting, duplicates.CONFLICTING)
        books.drop(twice, duplicates.DUPLICATE)
        if self._count:
            books.draw(self._count)

    def _same(self, a: Problem, b: Problem) -> bool:
        verifier = self._verifiers[a.verifier]
        return golds.accepts(verifier, a, b.answer) and golds.accepts(verifier, b, a.answer)

    # ---- write

    def write(self) -> None:
        """problems.jsonl and images/ in the staging folder, and the examples of what is dropped."""
        shown = set(self.ledger.shown(MOST))
        used: set[str] = set()
        with (self._folder / "problems.jsonl").open("wb") as out:
            for index, line in self._spilled(lambda index: True):
                reason = self.ledger.reason_of(index)
                if reason or self.ledger.pictures[index] or self._made:
                    row = json.loads(line)
                    if not reason and not self._saved(row["image_sha"]):
                        reason = "bad image"
                        self.ledger.drop(index, reason)
                    if reason:
                        if reason not in self.examples.first:
                            self.examples.dropped(reason, index, self._fault_of(reason, index, row))
                        if self.examples.wants(reason):
                            self.examples.add(reason, index, int(self.ledger.number[index]), row)
                        continue
                    used.update(row["image_sha"])
                    self._categories[str(row["meta"].get("category", ""))] += 1
                out.write(line)
                if index in shown:
                    self.examples.add("", index, int(self.ledger.number[index]), json.loads(line))
        self._writer.finish()
        for path in (self._folder / "images").glob("*.png"):
            if path.stem not in used:
                path.unlink()
        self._spill.unlink()

    def _fault_of(self, reason: str, index: int, row: Mapping[str, Any]) -> Fault:
        """What a row that could be read is dropped for."""
        fields = {rule.reason: rule.field for rule in self._rules} | _FIELDS
        field = fields.get(reason, "")
        said = f" Here it is {cut(row['answer'], 80)!r}." if field == "answer" else ""
        name, number = Path(self._input.name).name, int(self.ledger.number[index])
        return Fault(f"{self._why(reason)}{said}", name, number, field, _REMEDIES.get(reason, ""))

    def _why(self, reason: str) -> str:
        whys = _WHY | {rule.reason: rule.why for rule in self._rules}
        return whys.get(reason, "The row could not be read; the fault says why.")

    def _saved(self, shas: Sequence[str]) -> bool:
        """Whether all pictures of a row lie in the folder now."""
        try:
            for sha in shas:
                self._writer.save(sha)
        except DataError:  # its file has changed since it was read
            return False
        return True

    def report(self) -> dict[str, Any]:
        """Everything that is known of the rows; JSON-able."""
        counts = self.ledger.counts()
        options = self._options
        report: dict[str, Any] = {
            "source": self._source,
            "input": Path(self._input.name).name if self._input.root is not None else self._input.name,
            "revision": self._input.revision or None,
            **counts,
            "by_category": {name: n for name, n in sorted(self._categories.items()) if name},
            "reasons": {reason: self._why(reason) for reason in counts["dropped"]},
            "options": {
                "seed": options.seed,
                "sample": self._count or None,
                "min_side": options.min_side,
                "max_tokens": options.budget.max_tokens if options.budget else None,
                "rows_with_smaller_pictures": self._shrunk,
                "shuffle_choices": options.shuffle_choices,
            },
            "against": [self._compared(file) for file in self._files],
            "image_twins": self._twins(),
            "paper": beside_paper(counts, self._made.table, self._made.paper) if self._made else None,
        }
        return report | self.examples.as_dict()

    def _compared(self, file: EvaluationFile) -> dict[str, Any]:
        mine = [q for q in self._index.questions if q.file == file.name]
        return {
            "file": file.name,
            "questions": len(file.questions),
            "unread": file.unread,
            "pictures": sum(len(q.pictures) for q in file.questions),
            "rows": self._flagged[file.name],
            "word_for_word": self._exact[file.name],
            "questions_repeated": sum(id(q) in self._hit for q in mine),
        }

    def _twins(self) -> dict[str, Any] | None:
        if not self._index.has_pictures:
            return None
        training = np.stack(list(self._hashes.values())) if self._hashes else np.zeros((0, 16), np.uint64)
        uses = np.array([self._uses[sha] for sha in self._hashes], np.int64)
        return image_twins(self._index.questions, training, uses) | {
            name: self._beside[name] for name in ("sibling_rows", "other_picture_rows")
        }

"""Procedural text and picture problems for the micro model: seeded, unlimited, exact answers.

Train and evaluation are disjoint by construction (items.py). RL sees only question, picture and
answer; worked solutions are for the base model (habits.py) and for supervised stages that ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from lmm_r1.data.fingerprint import fingerprint, row_hash
from lmm_r1.data.images import ImageStore
from lmm_r1.data.synthetic.geometry import GEOMETRY_FAMILIES
from lmm_r1.data.synthetic.items import Item, Maker, careful, draw
from lmm_r1.data.synthetic.perception import PERCEPTION_FAMILIES
from lmm_r1.data.synthetic.text import TEXT_FAMILIES
from lmm_r1.errors import RecipeError
from lmm_r1.types import Image, Message, Problem, Text

DOMAINS: dict[str, dict[str, Maker]] = {
    "text": TEXT_FAMILIES,
    "geometry": GEOMETRY_FAMILIES,
    "perception": PERCEPTION_FAMILIES,
}


def to_problem(item: Item, domain: str, identity: str, put: Callable[..., Image]) -> Problem:
    """The part of an item that RL may see: picture first, then the question."""
    content: list[Text | Image] = [] if item.picture is None else [put(item.picture)]
    content.append(Text(item.question))
    return Problem(
        id=identity,
        messages=(Message("user", tuple(content)),),
        answer=item.answer,
        verifier=item.verifier,
        source=f"synthetic/{item.family}",
        choices=item.choices,
        domain=domain,
        meta={"family": item.family, "key": item.key},
    )


class SyntheticSource:
    """An endless source: `at(index)` is a pure function of (domain, families, split, seed, index)."""

    def __init__(
        self,
        domain: str,
        images: ImageStore,
        *,
        families: Sequence[str] = (),
        split: str = "train",
        seed: int = 0,
        solutions: bool = False,
    ) -> None:
        """Raises RecipeError for an unknown domain or family. solutions: put the worked solution into meta.solution."""
        if domain not in DOMAINS:
            raise RecipeError(f"no synthetic domain '{domain}' (there are: {', '.join(DOMAINS)})")
        known = DOMAINS[domain]
        for family in families:
            if family not in known:
                raise RecipeError(f"no family '{family}' in the {domain} domain (there are: {', '.join(known)})")
        self._domain, self._images, self._split, self._seed = domain, images, split, seed
        self._families = tuple(families) or tuple(known)
        self._solutions = solutions
        self.name = f"synthetic {domain}"
        self._fingerprint = ""

    def __len__(self) -> int:
        raise TypeError("a synthetic source is endless")

    @property
    def size(self) -> int | None:
        """None: endless."""
        return None

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the first items of each family: another seed, another family or a changed generator shows."""
        self._fingerprint = self._fingerprint or fingerprint(digest for _, digest in self.rows())
        return self._fingerprint

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of the first two items of each family."""
        return ((p.id, row_hash(p)) for p in map(self.at, range(2 * len(self._families))))

    def item(self, index: int) -> tuple[str, Item]:
        """(family, item) at an index; families take turns."""
        family = self._families[index % len(self._families)]
        return family, draw(DOMAINS[self._domain][family], self._split, self._seed, index, family)

    def at(self, index: int) -> Problem:
        """The problem at an index; its picture is put into the image store."""
        family, item = self.item(index)
        identity = f"{self._split}/{family}/{self._seed}/{index}"
        problem = to_problem(item, self._domain, identity, self._images.put)
        if not self._solutions:
            return problem
        return replace(problem, meta={**problem.meta, "solution": careful(item, check=False)})

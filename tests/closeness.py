"""How far tensors are from the ones that were wanted: the measure of docs/architecture.md, "Tolerances"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def relative(found: Tensor, wanted: Tensor) -> float:
    """Relative L2 error; NaN, which is below no bound, when nothing is wanted and nothing found."""
    return float((found - wanted).norm() / wanted.norm())


def relative_of_all(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Relative L2 error over all tensors together, in float64, by the names of the first."""
    return relative(*(torch.cat([t[n].detach().flatten().double() for n in sorted(found)]) for t in (found, wanted)))

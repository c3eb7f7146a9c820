"""LMM-R1: strong reasoning for small multimodal models by two-stage rule-based RL (arXiv 2503.07536)."""

from lmm_r1.rewards import verify

__version__ = "0.1.0"

__all__ = ["__version__", "verify"]

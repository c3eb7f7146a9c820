"""LMM-R1: strong reasoning for small multimodal models by two-stage rule-based RL (arXiv 2503.07536)."""

__version__ = "0.1.0"

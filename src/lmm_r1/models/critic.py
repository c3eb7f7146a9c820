"""The critic of PPO: an LMM's trunk and a scalar head that says what a reply will still earn.

The value of token t is read from the hidden state of token t - 1, as its log-prob is: what the policy knew before it
wrote the token, pictures included. The trunk is a model of its own that starts from the stage's start weights, or the
policy's (`trunk` None), which saves a model's memory and lets the value loss train the policy's features.
Axis legend: N = trained tokens, D = hidden width.
Leaves out: the forward pass through the trunk (trainers/step.py), GAE and the value loss (algorithms/).
Sources: PPO, arXiv 1707.06347; a separate trunk with a head without bias, drawn with standard deviation 1 / (D + 1), is what
LMM-R1 trains (arXiv 2503.07536, figure 2, and its released code).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Critic(nn.Module):
    """`trunk`: the inner model of a Qwen2_5_VLForConditionalGeneration (its `.model`), or None = the policy's own."""

    def __init__(self, trunk: nn.Module | None, width: int, seed: int) -> None:
        """width: D of the trunk. seed: of the head, which is float32 whatever the trunk is."""
        super().__init__()
        self.trunk = trunk
        self.value_head = nn.Linear(width, 1, bias=False, dtype=torch.float32)
        draw = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.value_head.weight.copy_(draw / (width + 1))

    def values(self, states: Tensor) -> Tensor:
        """Hidden states float[N, D] of the tokens before -> values float32[N]."""
        return functional.linear(states.float(), self.value_head.weight.float())[:, 0]

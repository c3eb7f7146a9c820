"""The Football Game: for Gymnasium (game), two engines (academy, grf), pictures, scores, policies, and turns for a language
model."""

from lmm_r1.envs.football.game import ACTIONS, PICTURES, SCENARIOS, Football

__all__ = ["ACTIONS", "PICTURES", "SCENARIOS", "Football"]

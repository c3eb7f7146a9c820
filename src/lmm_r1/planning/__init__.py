"""What a recipe will need before anything is bought: memory by part, seconds by phase, hours and cost (docs/scale.md).

shapes: a model's sizes -> parameters, bytes, FLOPs. gpus: what vendors say of a GPU. assumptions: what nobody can count.
workload: tokens of a step. memory, phases: the two models. planner: a recipe's stages, what does not fit, which knob helps.
show: the tables. No torch, no weights, no network.
"""

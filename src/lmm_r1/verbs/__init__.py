"""The verbs of `lmm-r1`, by what they work on: runs, models, data, recipes, verifiers. cli.py registers them."""

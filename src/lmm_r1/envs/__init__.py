"""Games and other environments by the name that a problem uses (games.py). Never imports torch."""

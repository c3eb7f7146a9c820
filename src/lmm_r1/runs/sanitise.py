"""Text of a model or a data set, made safe to print in a terminal.

A reply may hold escape sequences that move the cursor, retitle the window, or reorder what a reader sees.
They are removed, not shown. Files keep the reply as it was (JSON-escaped); only what is displayed passes here.

Sources: ECMA-48 (C0, C1, CSI, OSC), Unicode UAX #9 (bidirectional controls).
"""

from __future__ import annotations

import re

# Whole sequences first: their printable rest would stay behind otherwise. Every pattern is linear.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"  # other escapes
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides, isolates
    r"\u200b-\u200d\u2028\u2029\u2060\ufeff"  # invisible: zero width, line and paragraph separators, BOM
    r"\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates (cannot be encoded), tag characters
)


def sanitise(text: str) -> str:
    """`text` without escape sequences, control characters (tab and newline stay), bidirectional and invisible ones."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def one_line(text: str, width: int) -> str:
    """`text` sanitised, whitespace runs as one space, cut to `width` characters with an ellipsis."""
    flat = " ".join(sanitise(text[: 8 * width + 1000]).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"

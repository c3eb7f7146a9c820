"""Qwen2.5-VL as a ModelAdapter: chat template to token ids, pictures to patches, ids to rotary positions.

Text of a message is data: where it spells a control or media token ("<|image_pad|>", "<|im_end|>"), the spelling is
tokenised as plain characters, so no row of data can add a picture or end a turn.
Axis legend: P = tokens of a prompt, T = tokens of a stream.
Leaves out: videos; other families (adapters.py has the table).
Sources: arXiv 2502.13923; chat template and processor files of https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedTokenizerBase, Qwen2_5_VLConfig

from lmm_r1.config import Model
from lmm_r1.errors import CheckpointError, DataError, Fault, first_line
from lmm_r1.models.folder_files import folder_faults, processor_of
from lmm_r1.models.load import load_tokenizer, resolve_folder
from lmm_r1.models.pictures import PatchGrid, Pixels, normalisation_table, patches_of, resize, rotary_positions
from lmm_r1.models.reply_opening import RENDERING, opening_of, unrendered
from lmm_r1.types import Encoded, Image, Int32, Message, Text

_STOPS = ("<|im_end|>", "<|endoftext|>")
_MEDIA = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
#: Bytes of pixel patches kept, so that a picture is cut once per step rather than once per use.
_CACHE_BYTES = 256 * 1024 * 1024


class PixelStore(Protocol):
    """Where pictures live by sha256 (data/images.py)."""

    def get(self, sha: str) -> Pixels:
        """uint8[H, W, 3] of a picture."""

    def put(self, pixels: Pixels) -> Image:
        """Keep a picture and name it."""


class QwenVLAdapter:
    """Implements seams.ModelAdapter for the Qwen2.5-VL family."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model_config: Qwen2_5_VLConfig,
        images: PixelStore,
        min_pixels: int,
        max_pixels: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        """CheckpointError when tokenizer and configuration disagree on the image token."""
        vision = model_config.vision_config
        self.tokenizer, self.images, self._folder = tokenizer, images, str(tokenizer.name_or_path)
        self.grid = PatchGrid(
            vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, min_pixels, max_pixels
        )
        self._table = normalisation_table(image_mean, image_std)
        vocabulary = tokenizer.get_vocab()
        self.vocabulary = int(model_config.text_config.vocab_size)
        self.image_token_id = int(model_config.image_token_id)
        if vocabulary.get("<|image_pad|>") != self.image_token_id:
            raise CheckpointError(
                f"the tokenizer's <|image_pad|> is {vocabulary.get('<|image_pad|>')}, the model's image token "
                f"{self.image_token_id}: they do not belong together"
            )
        stops = [vocabulary[t] for t in _STOPS if t in vocabulary]
        if tokenizer.eos_token_id is not None:
            stops.append(int(tokenizer.eos_token_id))
        self.stop_ids = tuple(dict.fromkeys(stops))
        # Beside media tokens: ids that have no text, as in heads that are wider than their tokenizer. Sampled, they are invisible
        # in a reply, and vLLM ends at the turn that repeats them.
        silent = set(range(model_config.text_config.vocab_size)) - set(vocabulary.values())
        self.banned_ids = tuple(sorted(silent | {vocabulary[t] for t in _MEDIA if t in vocabulary}))
        pad = tokenizer.pad_token_id
        self.pad_id = int(pad) if pad is not None else self.stop_ids[0]
        controls = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special} | {*_STOPS, *_MEDIA}
        longest_first = sorted(controls, key=lambda t: (-len(t), t))
        self._controls = re.compile("|".join(map(re.escape, longest_first)))
        self._patches: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._patch_bytes = 0

    @classmethod
    def from_folder(cls, folder: str | Path, images: PixelStore, model_cfg: Model) -> QwenVLAdapter:
        """The adapter of a model folder or hub id. CheckpointError when a file is missing or broken."""
        path = resolve_folder(folder)
        faults = folder_faults(path)
        if faults:
            raise CheckpointError(*faults)
        tokenizer, processor = load_tokenizer(path, model_cfg.trust_remote_code), processor_of(path)
        try:
            config = AutoConfig.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                Fault(f"configuration cannot be read: {first_line(error)}", file=str(path))
            ) from error
        return cls(
            tokenizer, config, images, model_cfg.min_pixels, model_cfg.max_pixels, processor.mean, processor.std
        )  # fmt: skip

    def canonical(self, pixels: Pixels) -> Pixels:
        """uint8[H', W', 3]: the picture everybody uses, resized once to whole cells; idempotent. DataError when it is
        more than 200 times as long as wide."""
        return resize(pixels, *self.grid.fit(*pixels.shape[:2]))

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Chat template with the generation prompt; image placeholders expanded to one token per cell."""
        return self._encode(messages, "")

    def encode_feedback(self, messages: Sequence[Message]) -> Encoded:
        """Only the tokens that follow a reply which ended with the stop token, up to the next reply's start."""
        return self._encode(messages, self._marks(messages)[1])

    def decode(self, token_ids: Int32) -> str:
        """Text of a reply without its stop token; control tokens inside it stay visible."""
        ids = token_ids.tolist()
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def vision_inputs(self, images: Sequence[Image]) -> dict[str, torch.Tensor]:
        """pixel_values float32[patches, 3 * 2 * 14 * 14] and image_grid_thw int64[n, 3], in patches."""
        if not images:
            raise ValueError("vision_inputs of no pictures")
        patch = self.grid.patch
        grids = [[1, i.height // patch, i.width // patch] for i in images]
        return {
            "pixel_values": torch.from_numpy(np.concatenate([self._patches_of(i) for i in images])),
            "image_grid_thw": torch.tensor(grids, dtype=torch.int64),
        }

    def positions(self, token_ids: Int32, images: Sequence[Image]) -> NDArray[np.int64]:
        """Rotary positions int64[3, T] (time, height, width). ValueError when placeholders and pictures disagree."""
        cell = self.grid.cell
        return rotary_positions(token_ids, self.image_token_id, [(i.height // cell, i.width // cell) for i in images])

    def tokens_of(self, image: Image) -> int:
        """How many tokens a canonical picture takes."""
        return self.grid.tokens(image.height, image.width)

    def _encode(self, messages: Sequence[Message], reply_mark: str) -> Encoded:
        """Render, tokenise and expand. With `reply_mark`, only what follows a reply with that text."""
        chat, literals, images = self._render_inputs(messages)
        if reply_mark:
            chat = [
                {"role": "user", "content": [_text("")]},
                {"role": "assistant", "content": [_text(reply_mark)]},
                *chat,
            ]
        prompt = rendered = self._render(chat, begin_reply=True)
        if reply_mark:
            rendered = rendered.split(reply_mark, 1)[1]
            for stop in _STOPS:  # the reply brought its own
                rendered = rendered.removeprefix(stop)
        ids: list[int] = []
        for piece in self._pieces(rendered, literals):
            ids += self.tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
        opening = opening_of(self._render, chat, prompt, self._folder)
        return Encoded(self._expand(np.asarray(ids, np.int32), images), tuple(images), opening)

    def _render(self, chat: Sequence[dict[str, Any]], begin_reply: bool) -> str:
        """The template's text. CheckpointError when it cannot be rendered."""
        try:
            return str(
                self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=begin_reply)
            )
        except RENDERING as error:
            raise unrendered(error, self._folder) from None

    def _render_inputs(self, messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, str], list[Image]]:
        """(messages for the template, {mark: spelled control token it stands for}, canonical pictures)."""
        opening = self._marks(messages)[0]
        literals: dict[str, str] = {}

        def hide(found: re.Match[str]) -> str:
            mark = f"{opening}{len(literals)}\ue001"
            literals[mark] = found.group()
            return mark

        chat: list[dict[str, Any]] = []
        images: list[Image] = []
        for message in messages:
            content: list[dict[str, str]] = []
            for part in message.content:
                if isinstance(part, Text):
                    content.append(_text(self._controls.sub(hide, part.text)))
                else:
                    images.append(self._canonical_image(part))
                    content.append({"type": "image"})
            chat.append({"role": message.role, "content": content})
        return chat, literals, images

    @staticmethod
    def _marks(messages: Sequence[Message]) -> tuple[str, str]:
        """Two strings that no text of the messages holds: the opening of literal marks, and a reply's mark."""
        texts = [p.text for m in messages for p in m.content if isinstance(p, Text)]
        number = 0
        while any(f"\ue000{number}:" in text for text in texts):
            number += 1
        return f"\ue000{number}:", f"\ue000{number}:reply\ue001"

    @staticmethod
    def _pieces(rendered: str, literals: Mapping[str, str]) -> Iterator[str]:
        """Strings to tokenise one by one: a spelled control token is cut after its first character, so that no
        tokenizer can read it as the token."""
        if not literals:
            yield rendered
            return
        for piece in re.split("(" + "|".join(map(re.escape, literals)) + ")", rendered):
            if piece in literals:
                yield from (literals[piece][:1], literals[piece][1:])
            elif piece:
                yield piece

    def _expand(self, ids: Int32, images: Sequence[Image]) -> Int32:
        """One placeholder per picture -> one per cell. DataError when the template lost or added a picture."""
        spots = np.flatnonzero(ids == self.image_token_id)
        if len(spots) != len(images):
            raise DataError(f"the chat template made {len(spots)} placeholders for {len(images)} pictures")
        repeats = np.ones(len(ids), np.int64)
        repeats[spots] = [self.tokens_of(i) for i in images]
        return ids.repeat(repeats)

    def _canonical_image(self, image: Image) -> Image:
        """The canonical picture, kept in the store under its own sha."""
        if self.grid.is_canonical(image.height, image.width):
            return image
        return self.images.put(self.canonical(self.images.get(image.sha)))

    def _patches_of(self, image: Image) -> NDArray[np.float32]:
        """Patches of a canonical picture, from the cache when it was cut lately."""
        found = self._patches.get(image.sha)
        if found is not None:
            self._patches.move_to_end(image.sha)
            return found
        if not self.grid.is_canonical(image.height, image.width):
            raise DataError(
                f"picture {image.sha[:12]} of {image.width} x {image.height} pixels is not on the patch grid"
            )
        found = patches_of(self.images.get(image.sha), self.grid, self._table)
        self._patches[image.sha] = found
        self._patch_bytes += found.nbytes
        while self._patch_bytes > _CACHE_BYTES and len(self._patches) > 1:
            self._patch_bytes -= self._patches.popitem(last=False)[1].nbytes
        return found


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}

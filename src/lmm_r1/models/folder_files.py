"""The small files of a model folder: configuration, tokenizer, processor, and what an export says of its own training.

`check` and the run read them by the same functions, so both say the same of a folder. An export has a `lmm_r1.json`
(`Card`): the settings it was trained with, which other commands take as defaults, and the sha256 of every file that a loader
reads, which `verify_files` compares before anything is used. A folder without one is somebody else's and is taken as it is.
Leaves out: weights as tensors (load.py, stored.py). Loads no torch: `check` starts at once.
Sources: the layout of https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct, and of folders that transformers 5 saves, which hold
no preprocessor_config.json; of two places of one setting transformers' own order counts (image_processing_base.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmm_r1.config import Window
from lmm_r1.disk import follow_umask, sha256_of
from lmm_r1.errors import CheckpointError, Fault, first_line

#: model_type of config.json that there is an adapter for (adapters.py).
FAMILIES = ("qwen2_5_vl",)
CONFIG, CARD, GENERATION = "config.json", "lmm_r1.json", "generation_config.json"
#: Places of an image processor's settings. transformers takes the nested one first, and a legacy processor_config.json has none.
NESTED, PLAIN = "processor_config.json", "preprocessor_config.json"
CARD_FORMAT = 1
#: What loaders of weights, tokenizers and processors read: these files are hashed, and one that was added counts as a change.
READ_BY_LOADERS = re.compile(
    r"config\.json|(generation|processor|preprocessor|video_preprocessor|tokenizer)_config\.json|tokenizer\.json|vocab\.json|"
    r"merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)|.*\.model|.*\.safetensors(\.index\.json)?"
)
_SIZES = (
    ("patch_size", "patch_size", 14),
    ("merge_size", "spatial_merge_size", 2),
    ("temporal_patch_size",) * 2 + (2,),
)
#: Bounds far above any use: a folder is not to be trusted, and tables are made as long as it says.
MOST_PIXELS = 10**9
Tokens = Annotated[int, Field(ge=1, le=10**6)]
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
_hashes: dict[tuple[int, ...], str] = {}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class CardPrompt(_Part):
    """The prompt profile of the training: its name, and the text of the system message ("" = none)."""

    profile: Annotated[str, Field(max_length=1000)]
    system: Annotated[str, Field(max_length=1_000_000)]
    chat_template: str = ""


class CardPictures(_Part):
    """Bounds of a canonical picture, pixels."""

    min_pixels: Pixels
    max_pixels: Pixels


class CardSampling(_Part):
    """How the replies of the training were sampled. max_prompt_tokens: longer prompts were dropped. max_context: tokens of prompt
    and reply together."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: Tokens
    max_prompt_tokens: Tokens
    max_context: Tokens
    memory: Literal["full"] | Window = "full"


class Card(_Part):
    """lmm_r1.json: what made a model, and how it was trained to be used. files: {name: sha256}, empty = not to be compared."""

    format: int
    lmm_r1: str
    recipe: str
    stage: str
    steps: int
    prompt: CardPrompt
    pictures: CardPictures
    sampling: CardSampling
    reward: dict[str, Any]
    data: list[dict[str, Any]]
    weights_sha256: str
    files: dict[str, str] = {}

    @model_validator(mode="after")
    def _plain_names(self) -> Card:
        if any(Path(name).name != name or name in ("", ".", "..") for name in self.files):
            raise ValueError("files: a name leaves the folder")
        return self


@dataclass(frozen=True, slots=True)
class Processor:
    """Settings of a folder's image processor. min_pixels, max_pixels: None where the folder does not say."""

    file: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_pixels: int | None
    max_pixels: int | None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. CheckpointError, naming the file, for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(Fault(f"cannot be read: {first_line(error)}", file=str(path))) from error
    if not isinstance(found, dict):
        raise CheckpointError(Fault("holds no JSON object", file=str(path)))
    return found


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. CheckpointError when missing or broken, or of a family without an adapter."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(Fault("is missing: this is no model folder", file=str(path)))
    config = read_object(path)
    kind = config.get("model_type")
    if kind not in FAMILIES:
        what = f"no adapter for model_type {kind!r} (there are: {', '.join(FAMILIES)})"
        raise CheckpointError(Fault(what, file=str(path), field="model_type"))
    return config


def image_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """(file, settings of the image processor in it), as transformers finds them. CheckpointError when there are none."""
    nested, plain = folder / NESTED, folder / PLAIN
    if nested.is_file() and "image_processor" in (outer := read_object(nested)):
        found = outer["image_processor"]
        if not isinstance(found, dict):
            raise CheckpointError(Fault("is no table", file=str(nested), field="image_processor"))
        return nested, found
    if plain.is_file():
        return plain, read_object(plain)
    if nested.is_file():
        what = f"has no image_processor, and there is no {PLAIN}"
        raise CheckpointError(
            Fault(what, file=str(nested), remedy="add the processor's file of the model it comes from")
        )
    raise CheckpointError(Fault(f"the model folder has no {PLAIN} or {NESTED}", file=str(folder)))


def processor_of(folder: Path) -> Processor:
    """What the folder's image processor does to a picture.

    CheckpointError, naming file and field, when it is missing, broken, or cuts other patches than the model's configuration.
    """
    path, found = image_settings(folder)

    def wrong(field: str, what: str) -> CheckpointError:
        return CheckpointError(Fault(what, file=str(path), field=field))

    channels = {}
    for name in ("image_mean", "image_std"):
        value = found.get(name)
        if not isinstance(value, list) or len(value) != 3 or not all(_is_number(x) for x in value):
            raise wrong(name, "must be three numbers")
        if name == "image_std" and min(value) <= 0:
            raise wrong(name, "must be three numbers above 0")
        channels[name] = tuple(float(x) for x in value)
    for name in ("do_rescale", "do_normalize"):
        if found.get(name) not in (None, True):
            raise wrong(name, f"is {found[name]!r:.40}, but pictures are always rescaled and normalised here")
    vision = read_model_config(folder).get("vision_config")
    for theirs, ours, usual in _SIZES:
        wanted = vision.get(ours, usual) if isinstance(vision, dict) else usual
        if found.get(theirs, wanted) != wanted:
            raise wrong(
                theirs, f"is {found[theirs]!r}, but the model's {ours} is {wanted!r}: they do not belong together"
            )
    size = found.get("size")
    size = size if isinstance(size, dict) else {}
    limits = {}
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        limit = found.get(name) if found.get(name) is not None else size.get(edge, size.get(name))
        whole = isinstance(limit, int) and not isinstance(limit, bool)
        if limit is not None and not (whole and 1 <= limit <= MOST_PIXELS):
            raise wrong(name, f"must be a whole number from 1 to {MOST_PIXELS}, not {limit!r:.60}")
        limits[name] = limit
    return Processor(path, channels["image_mean"], channels["image_std"], limits["min_pixels"], limits["max_pixels"])


def limit_pictures(folder: Path, min_pixels: int, max_pixels: int) -> None:
    """Write the bounds of a picture into every processor file of a folder, under the names that transformers and vLLM read.

    CheckpointError for a broken file, OSError when the disk refuses.
    """
    for path in (folder / NESTED, folder / PLAIN):
        if not path.is_file():
            continue
        content = read_object(path)
        settings = content.get("image_processor") if path.name == NESTED else content
        if not isinstance(settings, dict):
            continue  # a legacy processor_config.json, which says nothing of pictures
        settings["size"] = {"shortest_edge": min_pixels, "longest_edge": max_pixels}  # areas, in spite of the names
        settings |= {k: v for k, v in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if k in settings}
        settings["do_resize"] = True
        write_object(path, content)


def neutral_generation(folder: Path, temperature: float, top_p: float) -> None:
    """Rewrite generation_config.json: the rollouts' sampling, the ids with a meaning as they are, and nothing else.

    top_k = 0 says "off": without it transformers would sample from the best 50. Raises as `limit_pictures` does.
    """
    path = folder / GENERATION
    old = read_object(path) if path.is_file() else {}
    kept = {name: old[name] for name in old if name.endswith("token_id") or name == "transformers_version"}
    write_object(path, {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0, **kept})


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def token_ids(folder: Path) -> dict[str, int]:
    """{token: id} of a folder's tokenizer, added ones included. CheckpointError when missing or broken."""
    fast, slow = folder / "tokenizer.json", folder / "vocab.json"
    if not fast.is_file() and not slow.is_file():
        raise CheckpointError(Fault("the model folder has no tokenizer.json or vocab.json", file=str(folder)))
    path = fast if fast.is_file() else slow
    content = read_object(path)
    try:
        if path == fast:
            vocabulary = content["model"]["vocab"]
            ids = {str(k): int(v) for k, v in vocabulary.items()} if isinstance(vocabulary, dict) else {
                str(entry[0]): at for at, entry in enumerate(vocabulary)
            }  # fmt: skip
            added = {str(t["content"]): int(t["id"]) for t in content.get("added_tokens") or []}
        else:
            ids = {str(k): int(v) for k, v in content.items()}
            more = read_object(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
            added = {str(t["content"]): int(k) for k, t in more.items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(Fault(f"is no tokenizer: {first_line(error)}", file=str(path))) from error
    return ids | added


def head_rows(config: Mapping[str, Any]) -> int | None:
    """Ids that a model of this config.json can predict; None when it does not say. Old files have the text's keys on top."""
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else {}).get("vocab_size", config.get("vocab_size"))
    return rows if isinstance(rows, int) and not isinstance(rows, bool) else None


def without_text(folder: Path) -> int:
    """How many ids the model could predict that its tokenizer has no text for; they are never sampled. CheckpointError."""
    rows = head_rows(read_model_config(folder)) or 0
    return len(set(range(rows)) - set(token_ids(folder).values()))


def folder_faults(folder: Path) -> list[Fault]:
    """Everything that makes a run refuse a local model folder and that its small files, sizes and hashes tell."""
    faults: list[Fault] = []

    def tried(read: Any) -> Any:
        try:
            return read(folder)
        except CheckpointError as error:
            faults.extend(fault for fault in error.faults if fault not in faults)

    config, ids = tried(read_model_config), tried(token_ids)
    tried(_tokenizer_config)
    if config is not None:
        tried(processor_of)
    if config is not None and ids is not None:
        faults += _unlike(folder, config, ids)
    tried(verify_files)
    return faults + _cut_weights(folder)


def _cut_weights(folder: Path) -> list[Fault]:
    """Weights that an index names and that are not here, and files of another size than their headers say."""
    faults, files = [], sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        try:
            named = read_object(index).get("weight_map")
        except CheckpointError as error:
            return list(error.faults)
        for name in sorted(set(map(str, named.values())) if isinstance(named, dict) else ()):
            if folder / name not in files:
                faults.append(
                    Fault(f"names {name}, which is not here", file=str(index), remedy="fetch the model again")
                )
    for path in files:
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                size = path.stat().st_size
                header = json.loads(file.read(length)) if length <= size else {}
            ends = [int(told["data_offsets"][1]) for name, told in header.items() if name != "__metadata__"]
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            faults.append(Fault(f"is no safetensors file: {first_line(error)}", file=str(path)))
            continue
        if size != 8 + length + max(ends, default=0):
            what = f"is cut off or damaged: it has {size} bytes, its header says {8 + length + max(ends, default=0)}"
            faults.append(Fault(what, file=str(path), remedy="fetch or export the model again"))
    return faults


def _tokenizer_config(folder: Path) -> None:
    """CheckpointError without a readable tokenizer_config.json (it names the end of a turn) or without a chat template."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        raise CheckpointError(Fault("the model folder has no tokenizer_config.json", file=str(folder)))
    template = folder / "chat_template.jinja"
    if not read_object(path).get("chat_template") and not (template.is_file() and template.stat().st_size):
        raise CheckpointError(Fault("the tokenizer has no chat template", file=str(folder)))


def _unlike(folder: Path, config: Mapping[str, Any], ids: Mapping[str, int]) -> list[Fault]:
    """Where tokenizer and configuration do not belong together."""
    found = []
    image, named = ids.get("<|image_pad|>"), config.get("image_token_id")
    if named is not None and image != named:
        what = f"the tokenizer's <|image_pad|> is {image}, the model's image token {named}: they do not belong together"
        found.append(Fault(what, file=str(folder)))
    rows, last = head_rows(config), max(ids.values(), default=0)
    if rows is not None and last >= rows:
        what = f"the tokenizer has the id {last}, the model only {rows} rows: they do not belong together"
        found.append(Fault(what, file=str(folder)))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9


# ---- what an export says of itself


def card_of(folder: Path) -> Card | None:
    """The card of an export; None for a folder without one. CheckpointError, naming file and field, for a broken one."""
    path = folder / CARD
    if not path.is_file():
        return None
    content = read_object(path)
    written = content.get("format")
    if isinstance(written, int) and written > CARD_FORMAT:
        remedy = "use the version of lmm-r1 that wrote it, or a newer one"
        what = f"has format {written}, this version reads {CARD_FORMAT}"
        raise CheckpointError(Fault(what, file=str(path), field="format", remedy=remedy))
    try:
        return Card.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(Fault(f"is no card of a model: {first['msg']}", file=str(path), field=field)) from None


def loader_files(folder: Path) -> list[Path]:
    """Files of a folder that loaders read, by name."""
    return sorted(p for p in folder.iterdir() if READ_BY_LOADERS.fullmatch(p.name) and p.is_file())


def hash_once(path: Path) -> str:
    """sha256 of a file, read once a process as long as the file stays as it is (device, inode, size, times)."""
    told = os.stat(path)
    key = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
    if key not in _hashes:
        _hashes[key] = sha256_of(path)
    return _hashes[key]


def write_card(folder: Path, card: Card) -> Card:
    """Write lmm_r1.json with the hashes of all that loaders read, and of itself; returns it so."""
    files = {path.name: sha256_of(path) for path in loader_files(folder)}
    sealed = card.model_copy(update={"files": files})
    sealed = card.model_copy(update={"files": {**files, CARD: _card_hash(sealed.model_dump(mode="json"))}})
    write_object(folder / CARD, sealed.model_dump(mode="json"))
    follow_umask(folder)
    return sealed


def _card_hash(content: Mapping[str, Any]) -> str:
    """Hash of a card without the entry that holds it."""
    files = {name: digest for name, digest in content.get("files", {}).items() if name != CARD}
    text = json.dumps({**content, "files": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def verify_files(folder: Path, listed: Mapping[str, str] | None = None, remedy: str = "") -> None:
    """Compare the files of an export with their hashes; a folder without a card, or a card without hashes, is taken as it is.

    listed: {name: sha256} from elsewhere, such as the run that exported it; None = the card's. remedy: what a fault tells
    the user to do. Files are read once a process.
    CheckpointError names every file that is missing, was added, or has another hash.
    """
    card = card_of(folder)
    if listed is None:
        listed = {} if card is None else card.files
    if not listed:
        return
    remedy = remedy or f'restore it; if it was changed on purpose, delete "files" from {folder / CARD}'
    faults = []
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():
            faults.append(Fault("is missing, though the export wrote it", file=str(path), remedy=remedy))
            continue
        actual = _card_hash(read_object(path)) if name == CARD else hash_once(path)
        if actual != digest:
            what = f"has changed since it was exported: sha256 is {actual}, was {digest}"
            faults.append(Fault(what, file=str(path), remedy=remedy))
    for path in loader_files(folder):
        if path.name not in listed:
            faults.append(Fault("was added to the export, and loaders would read it", file=str(path), remedy=remedy))
    if faults:
        raise CheckpointError(*faults)

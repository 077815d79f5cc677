"""A folder in the layout of the hub as a checkpoint: config.json, safetensors, tokenizer and chat template.

Pickled weights are never opened: they can run code.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ecocore import _core
from ecocore.errors import InvalidModelFile

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_CONFIG_DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_GENERATION = "generation_config.json"
# Far above any settings file; a tokenizer.json of 262,144 tokens has 33 MB.
_MAX_JSON = 256 * 2**20
_MAX_TEMPLATE = 2**20
# Lists and objects of a settings file; a tokenizer.json of 262,144 tokens has half a million, one for each merge. An empty
# one takes 3 bytes in the file and 72 in memory.
_MAX_CONTAINERS = 4_000_000
# Numbers that are read at a time where they are turned into another type: few enough to stay in a core's cache.
_PIECE = 2**18
# Of a matrix of which some columns are wanted, so many bytes are looked at a time.
_STRIP = 16 * 2**20


class _Place(NamedTuple):
    """Where a tensor lies, in bytes from the start of its shard."""

    shard: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsCheckpoint:
    """See `Checkpoint`."""

    format: Literal["safetensors"] = "safetensors"
    settings_name = "config.json"

    def __init__(self, path: Path) -> None:
        """Reads and checks settings and headers. Raises InvalidModelFile."""
        self.path = path
        self.config: Mapping[str, Any] = _required_json(path / "config.json")
        self.image_settings: Mapping[str, Any] = _image_settings(path)
        self.generation_config: Mapping[str, Any] = _json(path / _GENERATION)
        self._places = dict(_places(path))
        self.stored_dtype = _stored_dtype(self.config, self._places.values())
        self.tokenizer_path = path / "tokenizer.json"
        if not self.tokenizer_path.is_file():
            raise InvalidModelFile(f"{path} has no tokenizer.json; fetch it, or save the tokenizer in its fast form")
        tokenizer_config = _json(path / "tokenizer_config.json")
        self.special_tokens: Mapping[str, str] = _special_tokens(path, tokenizer_config)
        self.chat_template = _chat_template(path, tokenizer_config)
        self.tool_template = _tool_template(path, tokenizer_config)
        self.start_ids = tuple(_start_ids(self.tokenizer_path))
        self.end_ids = self._find_end_ids(tokenizer_config)

    def names(self) -> Collection[str]:
        """See `Checkpoint`."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint`."""
        return self._place(name).shape

    def nbytes(self, name: str) -> int:
        """See `Checkpoint`."""
        place = self._place(name)
        return place.end - place.start

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Checkpoint`.

        The file is read, not mapped: a mapped file that is cut meanwhile would kill the process. What is stored in
        another type is turned piece by piece, so that the tensor is never in memory twice.
        """
        place = self._supported(name)
        return _read(name, place, 0, place.shape, dtype)

    def load_part(self, name: str, dtype: torch.dtype, *, axis: Literal[0, 1], part: range) -> torch.Tensor:
        """See `Checkpoint`. What is left out is never in memory, or not all of it at a time."""
        place = self._supported(name)
        rows, *within = place.shape
        row_bytes = (place.end - place.start) // max(rows, 1)

        def read(some: range, kind: torch.dtype) -> torch.Tensor:
            return _read(name, place, some.start * row_bytes, (len(some), *within), kind)

        if axis == 0:
            return read(part, dtype)
        out = torch.empty((rows, len(part), *within[1:]), dtype=dtype)
        step = max(1, _STRIP // max(row_bytes, 1))
        for start in range(0, rows, step):
            some = range(start, min(start + step, rows))
            out[some.start : some.stop] = read(some, _DTYPES[place.dtype]).narrow(1, part.start, len(part))
        return out

    def _supported(self, name: str) -> _Place:
        place = self._place(name)
        if place.dtype not in _DTYPES:
            raise InvalidModelFile(
                f"{place.shard.name}: tensor {name}: type {place.dtype} is not supported; choose a checkpoint in bfloat16"
            )
        return place

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise InvalidModelFile(f"{self.path.name}: has no tensor {name}")
        return self._places[name]

    def _find_end_ids(self, tokenizer_config: Mapping[str, Any]) -> frozenset[int]:
        """The union of what the three files say: each of them alone is incomplete for some family."""
        ids = {
            *_ids(self.path / _GENERATION, self.generation_config.get("eos_token_id")),
            *_ids(self.path / "config.json", self.config.get("eos_token_id")),
            *_ids(self.path / "config.json", _object(self.config, "text_config").get("eos_token_id")),
        }
        text = self.special_tokens.get("eos_token")
        if text is not None and (token_id := self._token_id(text, tokenizer_config)) is not None:
            ids.add(token_id)
        return frozenset(ids)

    def _token_id(self, text: str, tokenizer_config: Mapping[str, Any]) -> int | None:
        for token_id, token in _object(tokenizer_config, "added_tokens_decoder").items():
            if _content(token) == text and token_id.isdecimal():
                return next(_ids(self.path / "tokenizer_config.json", int(token_id[:20])))
        # Newer folders list the added tokens in tokenizer.json alone.
        tokenizer = _required_json(self.tokenizer_path)
        added = tokenizer.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict) and token.get("content") == text:
                return next(_ids(self.tokenizer_path, token.get("id")), None)
        vocab = _object(_object(tokenizer, "model"), "vocab")
        return next(_ids(self.tokenizer_path, vocab.get(text)), None)


# --- weights --------------------------------------------------------------------------------------------


def _read(name: str, place: _Place, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Numbers of a tensor from its byte `start` on, as a tensor of `shape`."""
    tensor = torch.empty(shape, dtype=dtype)
    try:
        with place.shard.open("rb") as file:
            file.seek(place.start + start)
            complete = _fill(tensor.view(-1), file, _DTYPES[place.dtype])
    except OSError as error:
        raise InvalidModelFile(f"{place.shard.name}: tensor {name}: cannot be read: {error.strerror}") from error
    if not complete:
        raise InvalidModelFile(f"{place.shard.name}: tensor {name}: the file was cut since it was opened; fetch it anew")
    return tensor


def _places(folder: Path) -> Iterator[tuple[str, _Place]]:
    """Every tensor of the folder with its place."""
    if (folder / _SINGLE).exists():
        yield from _shard(folder / _SINGLE)
        return
    if not (folder / _INDEX).exists():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            raise InvalidModelFile(
                f"{folder} holds pickled weights only, which can run code and are never opened; "
                "fetch the model's safetensors files, or convert it to them"
            )
        raise InvalidModelFile(f"{folder} has neither {_SINGLE} nor {_INDEX}; fetch the model's safetensors files")

    index = folder / _INDEX
    weight_map = _required_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidModelFile(f"{index}: has no weight_map; fetch the file anew")
    shards = {shard: dict(_shard(_shard_path(index, shard))) for shard in dict.fromkeys(map(str, weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise InvalidModelFile(f"{index}: says that {shard!r:.80} holds {name!r:.80}, which it lacks; fetch both anew")
        yield name, shards[shard][name]


def _shard_path(index: Path, shard: str) -> Path:
    if "/" in shard or "\\" in shard or not shard.isprintable() or not shard.endswith(".safetensors"):
        raise InvalidModelFile(f"{index}: {shard!r:.80} is not the name of a shard in this folder")
    path = index.parent / shard
    try:
        there = path.exists()
    except OSError:
        # No file has this name: it is too long for one.
        there = False
    if not there:
        raise InvalidModelFile(f"{index}: names {shard!r:.80}, which is missing; fetch it")
    return path


def _shard(path: Path) -> Iterator[tuple[str, _Place]]:
    for name, (dtype, shape, start, end) in _core.read_safetensors_header(path).items():
        yield name, _Place(path, dtype, shape, start, end)


def _fill(numbers: torch.Tensor, file: BufferedReader, stored: torch.dtype) -> bool:
    """Reads as many numbers of type `stored`; False where the file has fewer."""
    if numbers.dtype == stored:
        return file.readinto(numbers.view(torch.uint8).numpy().data) == numbers.nbytes
    piece = torch.empty(min(_PIECE, len(numbers)), dtype=stored)
    for part in numbers.split(_PIECE):
        read = piece[: len(part)]
        if file.readinto(read.view(torch.uint8).numpy().data) != read.nbytes:
            return False
        part.copy_(read)
    return True


def _stored_dtype(config: Mapping[str, Any], places: Collection[_Place]) -> torch.dtype:
    """What the settings say, else the type of most bytes, among the types that are supported."""
    for settings in (config, _object(config, "text_config")):
        said = settings.get("dtype") or settings.get("torch_dtype")
        if isinstance(said, str) and said.removeprefix("torch.") in _CONFIG_DTYPES:
            return _DTYPES[_CONFIG_DTYPES[said.removeprefix("torch.")]]
    nbytes = {name: sum(place.end - place.start for place in places if place.dtype == name) for name in _DTYPES}
    return _DTYPES[max(nbytes, key=lambda name: nbytes[name])] if any(nbytes.values()) else torch.float32


# --- settings -------------------------------------------------------------------------------------------


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The first found of the three places where a folder may keep it."""
    if (folder / "chat_template.jinja").exists():
        return _text(folder / "chat_template.jinja", _MAX_TEMPLATE)
    for source in (_json(folder / "chat_template.json"), tokenizer_config):
        template = source.get("chat_template")
        if isinstance(template, str):
            return template
        # A list of named templates: "default" is for plain conversations.
        for entry in template if isinstance(template, list) else ():
            if isinstance(entry, dict) and entry.get("name") == "default" and isinstance(entry.get("template"), str):
                return str(entry["template"])
    return None


def _tool_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The one named for tools; and where the processor has a template of its own, the tokenizer's is for them."""
    if (folder / "chat_template.jinja").exists():
        return None
    template = tokenizer_config.get("chat_template")
    for entry in template if isinstance(template, list) else ():
        if isinstance(entry, dict) and entry.get("name") == "tool_use" and isinstance(entry.get("template"), str):
            return str(entry["template"])
    processor = _json(folder / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) and isinstance(processor, str) and template != processor else None


def _image_settings(folder: Path) -> dict[str, Any]:
    """The processor's part for images, or the older file of its own."""
    return _object(_json(folder / "processor_config.json"), "image_processor") or _json(folder / "preprocessor_config.json")


def _special_tokens(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    # Older folders keep them in a file of their own; the newer place wins.
    settings = {**_json(folder / "special_tokens_map.json"), **tokenizer_config}
    return {name: text for name, token in settings.items() if name.endswith("_token") and (text := _content(token)) is not None}


def _content(token: object) -> str | None:
    """Text of a token, which is spelled plainly or as an object with flags."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _start_ids(file: Path) -> Iterator[int]:
    """What the template of the tokenizer's post-processor puts before a text."""
    last = _object(_json(file), "post_processor")
    steps = last.get("processors") if last.get("type") == "Sequence" else [last]
    for step in steps if isinstance(steps, list) else []:
        if not isinstance(step, dict) or step.get("type") != "TemplateProcessing":
            continue
        pieces = step.get("single")
        for piece in pieces if isinstance(pieces, list) else []:
            name = _object(piece, "SpecialToken").get("id") if isinstance(piece, dict) else None
            if not isinstance(name, str):
                break
            yield from _ids(file, _object(_object(step, "special_tokens"), name).get("ids"))


def _ids(file: Path, value: object) -> Iterator[int]:
    """Token ids of a setting that is absent, one id, or a list of them."""
    for token_id in value if isinstance(value, list) else [] if value is None else [value]:
        if type(token_id) is not int or not 0 <= token_id < 2**32:
            raise InvalidModelFile(f"{file}: {token_id!r:.80} is not a token id; fetch the file anew")
        yield token_id


def _object(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; {} where there is none."""
    value = settings.get(key)
    return value if isinstance(value, dict) else {}


def _required_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InvalidModelFile(f"{path} is missing; a model's folder holds config.json, safetensors and tokenizer.json")
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file."""
    if not path.exists():
        return {}
    text = _text(path, _MAX_JSON)
    _, containers, _ = _core.json_shape(text.encode())
    if containers > _MAX_CONTAINERS:
        raise InvalidModelFile(f"{path}: holds {containers} lists and objects; {_MAX_CONTAINERS} are allowed")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{path}: is not JSON ({error}); fetch the file anew") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path}: is not a JSON object; fetch the file anew")
    return value


def _text(path: Path, limit: int) -> str:
    # Asked before opening, which would wait for a writer if this is a pipe.
    if not path.is_file():
        raise InvalidModelFile(f"{path}: is not a file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidModelFile(f"{path}: is larger than {limit >> 20} MiB; is it the right file?")
        return data.decode()
    except OSError as error:
        raise InvalidModelFile(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidModelFile(f"{path}: is not UTF-8; fetch the file anew") from error

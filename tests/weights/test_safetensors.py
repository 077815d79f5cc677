"""Folders in the layout of the hub, written by the `safetensors` package."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from ecocore import _core
from ecocore.errors import InvalidModelFile
from ecocore.weights import safetensors
from ecocore.weights.safetensors import SafetensorsCheckpoint


def random_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "half": torch.randn(3, 5, generator=generator).to(torch.float16),
        "brain": torch.randn(7, 2, generator=generator).to(torch.bfloat16),
        "single": torch.randn(4, generator=generator),
        "double": torch.randn(1, 2, 3, generator=generator, dtype=torch.float64),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 4),
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def folder(path: Path, tensors: dict[str, torch.Tensor] | None = None, **files: Any) -> Path:
    """A model's folder. `files`: JSON files by their name without suffix."""
    save_file(random_tensors() if tensors is None else tensors, path / "model.safetensors")
    for name, value in {"config": {}, "tokenizer": {}, **files}.items():
        write_json(path / f"{name}.json", value)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidModelFile) as caught:
        SafetensorsCheckpoint(path)
    return str(caught.value)


# --- weights --------------------------------------------------------------------------------------------


def test_tensors_read_as_the_safetensors_package_reads_them(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as theirs:
        assert set(checkpoint.names()) == set(theirs.keys())
        for name in theirs.keys():  # noqa: SIM118 (not a dict)
            tensor = theirs.get_tensor(name)
            loaded = checkpoint.load(name, tensor.dtype)
            assert loaded.dtype == tensor.dtype
            assert checkpoint.shape(name) == tuple(tensor.shape)
            assert checkpoint.nbytes(name) == tensor.nbytes
            assert torch.equal(loaded, tensor), name
            assert torch.equal(checkpoint.load(name, torch.bfloat16), tensor.to(torch.bfloat16)), name


def test_a_tensor_of_several_pieces_is_turned_into_another_type_like_a_whole_one(tmp_path: Path) -> None:
    whole = torch.randn(3, 200_003, generator=torch.Generator().manual_seed(3))
    checkpoint = SafetensorsCheckpoint(folder(tmp_path, {"half": whole.half(), "single": whole, "brain": whole.bfloat16()}))
    for name, dtype in itertools.product(("half", "single", "brain"), (torch.float32, torch.bfloat16, torch.float16)):
        stored = {"half": whole.half(), "single": whole, "brain": whole.bfloat16()}[name]
        assert torch.equal(checkpoint.load(name, dtype), stored.to(dtype)), (name, dtype)
    # Cut within the last piece: what was read before does not count.
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    last = max(checkpoint.names(), key=lambda name: checkpoint._place(name).end)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(InvalidModelFile, match="the file was cut since it was opened"):
            checkpoint.load(last, dtype)


@pytest.mark.parametrize("piece", [1, 20, 2**24])
def test_parts_are_those_of_the_safetensors_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(safetensors, "_STRIP", piece)
    checkpoint = SafetensorsCheckpoint(folder(tmp_path))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as theirs:
        for name in ("half", "brain", "double"):
            rows, columns = theirs.get_slice(name), theirs.get_tensor(name)
            for part in (range(1), range(1, 2), range(columns.shape[0])):
                if part.stop <= columns.shape[0]:
                    expected = rows[part.start : part.stop].to(torch.float32)
                    assert torch.equal(checkpoint.load_part(name, torch.float32, axis=0, part=part), expected), name
            for part in (range(1), range(1, 2), range(columns.shape[1])):
                expected = columns[:, part.start : part.stop].to(torch.bfloat16)
                loaded = checkpoint.load_part(name, torch.bfloat16, axis=1, part=part)
                assert torch.equal(loaded, expected), name
                assert loaded.is_contiguous()
        assert checkpoint.load_part("single", torch.float32, axis=0, part=range(2, 4)).tolist() == rows_of("single", 2, 4)


def rows_of(name: str, start: int, stop: int) -> list[float]:
    return random_tensors()[name][start:stop].tolist()


def test_a_part_of_a_file_that_was_cut_meanwhile_is_an_error(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path, {"a": torch.zeros(4, 4)}))
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(InvalidModelFile, match="the file was cut"):
        checkpoint.load_part("a", torch.float32, axis=1, part=range(2))
    assert checkpoint.load_part("a", torch.float32, axis=0, part=range(2)).tolist() == [[0.0] * 4] * 2


def test_a_loaded_tensor_shares_no_memory_with_the_file(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    checkpoint.load("single", torch.float32).zero_()
    assert checkpoint.load("single", torch.float32).any()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_file({"a": torch.ones(2), "unlisted": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    checkpoint = SafetensorsCheckpoint(tmp_path)
    assert set(checkpoint.names()) == {"a", "b"}
    assert checkpoint.load("a", torch.float32).tolist() == [1, 1]
    assert checkpoint.load("b", torch.float32).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "gone.safetensors"}, r"'gone\.safetensors', which is missing"),
        ({"a": "../one.safetensors"}, "not the name of a shard"),
        ({"a": "./one.safetensors"}, "not the name of a shard"),
        ({"a": "..safetensors"}, "missing"),
        ({"a": "model.safetensors.index.json"}, "not the name of a shard"),
        ({"a": "loop.safetensors"}, r"'loop\.safetensors', which is missing"),
        ({"a": "folder.safetensors"}, r"folder\.safetensors: is not a file"),
        ({"a": "pipe.safetensors"}, r"pipe\.safetensors: is not a file"),
        ({"a": "empty.safetensors"}, r"empty\.safetensors: header: reaches past the end"),
        ({"a": "index.safetensors"}, r"index\.safetensors: header: claims \d+ bytes; is this a safetensors file\?"),
        ({"a": "/etc/passwd"}, "not the name of a shard"),
        ({"a": "sub\\one.safetensors"}, "not the name of a shard"),
        ({"a": "one.bin"}, "not the name of a shard"),
        ({"a": "\0.safetensors"}, "not the name of a shard"),
        ({"a": "\x1b[2J.safetensors"}, r"'\\x1b\[2J\.safetensors' is not the name of a shard"),
        ({"a": "\ud800.safetensors"}, "not the name of a shard"),
        ({"a": "x" * 5000 + ".safetensors"}, "names 'x{79}, which is missing"),
        ({"a" * 10**6 + "\x1b": "one.safetensors"}, "holds 'a{79}, which it lacks"),
        ({"a": 5}, "not the name of a shard"),
        ({"a": ["one.safetensors"]}, "not the name of a shard"),
        ({"a": "one.safetensors", "c": "one.safetensors"}, "holds 'c', which it lacks"),
        ({}, "has no weight_map"),
        (["a"], "has no weight_map"),
        (None, "has no weight_map"),
    ],
)
def test_an_index_that_does_not_match_its_shards_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"weight_map": weight_map})
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (tmp_path / "index.safetensors").symlink_to(index)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "empty.safetensors").touch()
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidModelFile, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_a_tensor_in_two_shards_is_taken_from_the_one_that_the_index_names(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"a": torch.zeros(2), "c": torch.zeros(1)}, tmp_path / "two.safetensors")
    for shard, expected in (("one", [1, 1]), ("two", [0, 0])):
        weight_map = {"b": "one.safetensors", "a": f"{shard}.safetensors", "c": "two.safetensors"}
        write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
        assert SafetensorsCheckpoint(tmp_path).load("a", torch.float32).tolist() == expected


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "neither model.safetensors nor" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "pickled weights only" in refusal(tmp_path)


def test_types_that_are_no_floats_are_refused_when_loaded(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path, {"q": torch.ones(4, dtype=torch.int8), "x": torch.ones(1)}))
    assert checkpoint.load("x", torch.float32).tolist() == [1]
    with pytest.raises(InvalidModelFile, match="tensor q: type I8 is not supported"):
        checkpoint.load("q", torch.float32)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path))
    for use in (checkpoint.shape, checkpoint.nbytes, lambda name: checkpoint.load(name, torch.float32)):
        with pytest.raises(InvalidModelFile, match="has no tensor nope"):
            use("nope")


def test_a_file_cut_or_gone_after_opening_is_an_error_and_no_crash(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InvalidModelFile, match=r"model\.safetensors: tensor single: the file was cut since it was opened"):
        checkpoint.load("single", torch.float32)
    path.unlink()
    with pytest.raises(InvalidModelFile, match=r"model\.safetensors: tensor single: cannot be read"):
        checkpoint.load("single", torch.float32)


def load_all(path: Path, data: bytes) -> bool:
    """Whether the weights load. It may only fail with an InvalidModelFile that names the file."""
    (path / "model.safetensors").write_bytes(data)
    try:
        checkpoint = SafetensorsCheckpoint(path)
        for name in checkpoint.names():
            checkpoint.load(name, torch.float32)
    except InvalidModelFile as error:
        if "model.safetensors" not in str(error):
            raise
        return False
    return True


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = (folder(tmp_path) / "model.safetensors").read_bytes()
    assert load_all(tmp_path, whole)
    assert not any(load_all(tmp_path, whole[:length]) for length in range(len(whole)))


def test_every_changed_byte_of_a_header_gives_a_file_or_an_error(tmp_path: Path) -> None:
    whole = (folder(tmp_path, {"a": torch.ones(2, 3), "b": torch.ones(1)}) / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    loaded = sum(load_all(tmp_path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) for at in range(header))
    assert loaded < header / 2


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_random_edits_give_a_file_or_an_error(tmp_path: Path, data: st.DataObject) -> None:
    edited = bytearray((folder(tmp_path) / "model.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(edited)))
        edited[at : at + data.draw(st.integers(0, 16))] = data.draw(st.binary(max_size=16))
    load_all(tmp_path, bytes(edited))


def test_the_header_gives_places_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.tensor([1.0, 2.0])}, path)
    (dtype, shape, start, end) = _core.read_safetensors_header(path)["x"]
    assert (dtype, shape) == ("F32", (2,))
    assert path.read_bytes()[start:end] == torch.tensor([1.0, 2.0]).numpy().tobytes()


# --- settings -------------------------------------------------------------------------------------------


def test_the_chat_template_is_taken_from_the_first_place_that_has_one(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]
    folder(tmp_path, tokenizer_config={"chat_template": named}, chat_template={"chat_template": "processor"})
    (tmp_path / "chat_template.jinja").write_text("jinja größe", encoding="utf-8")
    assert SafetensorsCheckpoint(tmp_path).chat_template == "jinja größe"
    (tmp_path / "chat_template.jinja").unlink()
    assert SafetensorsCheckpoint(tmp_path).chat_template == "processor"
    (tmp_path / "chat_template.json").unlink()
    assert SafetensorsCheckpoint(tmp_path).chat_template == "default"
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "plain"})
    assert SafetensorsCheckpoint(tmp_path).chat_template == "plain"
    (tmp_path / "tokenizer_config.json").unlink()
    assert SafetensorsCheckpoint(tmp_path).chat_template is None


def test_special_tokens_are_found_in_either_spelling(tmp_path: Path) -> None:
    tokenizer_config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "special": True},
        "pad_token": None,
        "image_token": "<|image|>",
        "add_bos_token": True,
        "model_max_length": 5,
    }
    folder(tmp_path, tokenizer_config=tokenizer_config, special_tokens_map={"bos_token": "old", "unk_token": "<unk>"})
    assert SafetensorsCheckpoint(tmp_path).special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "image_token": "<|image|>",
    }


def test_end_ids_are_the_union_of_all_that_name_one(tmp_path: Path) -> None:
    folder(
        tmp_path,
        config={"eos_token_id": 1, "text_config": {"eos_token_id": [2]}},
        generation_config={"eos_token_id": [3, 4]},
        tokenizer_config={"eos_token": "</s>", "added_tokens_decoder": {"5": {"content": "</s>"}, "6": {"content": "x"}}},
    )
    assert SafetensorsCheckpoint(tmp_path).end_ids == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"added_tokens": [{"id": 7, "content": "x"}, {"id": 9, "content": "</s>"}]},
        {"added_tokens": [], "model": {"vocab": {"</s>": 9}}},
    ],
)
def test_the_id_of_the_tokenizers_end_token_is_looked_up_in_tokenizer_json(tmp_path: Path, tokenizer: Any) -> None:
    folder(tmp_path, tokenizer=tokenizer, tokenizer_config={"eos_token": "</s>"})
    assert SafetensorsCheckpoint(tmp_path).end_ids == {9}


def test_an_end_token_that_no_vocabulary_holds_ends_nothing(tmp_path: Path) -> None:
    folder(tmp_path, tokenizer={"model": {"vocab": [["a", -1.5]]}}, tokenizer_config={"eos_token": "</s>"})
    assert SafetensorsCheckpoint(tmp_path).end_ids == frozenset()


START: Any = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT: Any = {"Sequence": {"id": "A", "type_id": 0}}


def template(*single: Any) -> dict[str, Any]:
    tokens = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    return {"type": "TemplateProcessing", "single": list(single), "pair": [TEXT], "special_tokens": tokens}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "post_processor",
    [
        None,
        BYTES,
        template(START, TEXT),
        template(TEXT),
        {"type": "Sequence", "processors": [BYTES, template(START, START, TEXT)]},
    ],
)
def test_what_begins_every_text_is_what_the_tokenizers_package_puts_there(tmp_path: Path, post_processor: Any) -> None:
    vocab = {"a": 0, "<s>": 1}
    tokenizer = {"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}, "post_processor": post_processor}
    folder(tmp_path, tokenizer=tokenizer)
    expected = tokenizers.Tokenizer.from_str(json.dumps(tokenizer)).encode("").ids
    assert SafetensorsCheckpoint(tmp_path).start_ids == tuple(expected)


@pytest.mark.parametrize("eos", ["2", -1, 1.5, True, [True], [[1]], {"a": 1}, 2**32])
def test_end_ids_that_are_no_ids_are_refused(tmp_path: Path, eos: Any) -> None:
    folder(tmp_path, generation_config={"eos_token_id": eos})
    assert "generation_config.json" in refusal(tmp_path)
    assert "is not a token id" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "float16"}, torch.float16),
        ({"dtype": "torch.float32"}, torch.float32),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, torch.bfloat16),
        ({"text_config": {"dtype": "bfloat16"}}, torch.bfloat16),
        ({}, torch.float16),
        ({"dtype": "auto"}, torch.float16),
        ({"dtype": 5}, torch.float16),
    ],
)
def test_the_stored_dtype_is_what_the_config_says_or_most_bytes_have(tmp_path: Path, config: Any, expected: torch.dtype) -> None:
    tensors = {
        "a": torch.ones(8, dtype=torch.float16),
        "b": torch.ones(3),
        "c": torch.ones(99, dtype=torch.int8),
    }
    assert SafetensorsCheckpoint(folder(tmp_path, tensors, config=config)).stored_dtype == expected


def test_a_folder_without_floats_counts_as_float32(tmp_path: Path) -> None:
    assert SafetensorsCheckpoint(folder(tmp_path, {"a": torch.ones(2, dtype=torch.int8)})).stored_dtype == torch.float32


def test_config_and_paths_are_given(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder(tmp_path, config={"model_type": "llama"}))
    assert checkpoint.config == {"model_type": "llama"}
    assert (checkpoint.path, checkpoint.tokenizer_path) == (tmp_path, tmp_path / "tokenizer.json")
    assert checkpoint.format == "safetensors"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_a_required_file_is_refused(tmp_path: Path, name: str) -> None:
    (folder(tmp_path) / name).unlink()
    assert name in refusal(tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b'{"a": [' + b"{}," * 4_000_000 + b"1]}", "holds 4000002 lists and objects; 4000000 are allowed"),
        (b"", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'"\xff"', "is not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_settings_that_cannot_be_read_are_refused_by_file(tmp_path: Path, name: str, contents: bytes, message: str) -> None:
    (folder(tmp_path) / name).write_bytes(contents)
    assert name in refusal(tmp_path)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_or_a_folder_in_the_place_of_settings_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    (folder(tmp_path) / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert name in refusal(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert name in refusal(tmp_path)


def test_a_template_of_megabytes_is_refused(tmp_path: Path) -> None:
    (folder(tmp_path) / "chat_template.jinja").write_bytes(b"x" * (2**20 + 1))
    assert "chat_template.jinja: is larger than 1 MiB" in refusal(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**33) | st.text(max_size=5) | st.just("</s>"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "vocab", "id", "7", "default"]), inner)
    ),
    max_leaves=8,
)
SETTING = st.sampled_from(
    [
        "eos_token",
        "eos_token_id",
        "text_config",
        "dtype",
        "chat_template",
        "added_tokens_decoder",
        "added_tokens",
        "model",
        "weight_map",
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    files=st.dictionaries(
        st.sampled_from(["config", "tokenizer", "tokenizer_config", "generation_config"]), st.dictionaries(SETTING, JSON)
    )
)
def test_settings_of_any_shape_give_a_checkpoint_or_an_error(tmp_path: Path, files: dict[str, Any]) -> None:
    for name in ("tokenizer_config", "generation_config"):
        (tmp_path / f"{name}.json").unlink(missing_ok=True)
    folder(tmp_path, {"a": torch.ones(1)}, **files)
    try:
        checkpoint = SafetensorsCheckpoint(tmp_path)
    except InvalidModelFile:
        return
    assert all(isinstance(token_id, int) for token_id in checkpoint.end_ids)
    assert isinstance(checkpoint.chat_template, str | None)

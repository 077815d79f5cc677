"""The benches run and compare equal outputs. No speed is asserted: a benchmark is never a timed test."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benches import engine
from benches.bench_sample import _fits
from benches.harness import Absent, Bench, Case, Peer, Row, Settings, run_bench, same
from benches.report import machine, markdown

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
    assert {"cpu", "cores", "simd", "system", "python", "packages", "load_average"} == set(where)
    assert where["packages"]["torch"] != "absent"
    assert (results["rounds"], results["quick"]) == (2, True)
    for row in results["rows"]:
        assert row["threads"] in (1, 2)
        for timing in (row["ecocore"], row["peer_timing"]):
            if row["outputs"] == "equal":
                assert 0 < timing["low"] <= timing["median"] <= timing["high"]
                assert timing["cpu"] >= 0


def case(*peers: Peer | Absent, ours: object = "same") -> Case:
    return Case("a workload", "piece", 1, lambda: ours, peers, rate=(1, "pieces/s"))


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
    equal, absent = measure(case(Absent("nobody"), Peer("twin", lambda: "same", same(lambda: "same", lambda: "same"))))
    assert (equal.peer, equal.outputs) == ("twin", "equal")
    assert (absent.peer, absent.outputs, absent.peer_timing) == ("nobody", "absent", None)


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

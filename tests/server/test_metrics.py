"""Metrics: what Prometheus' own parser reads in them is what happened."""

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.live_server import MODEL, answering, chat_body, database_in

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database
from ecocore.regions.local import LocalRegion
from ecocore.regions.remote import RemoteRegion
from ecocore.runtime import Runtime
from ecocore.server.serve import bind


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    response = httpx.get(f"{url}/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    assert all(re.match(r"(ecocore|process)_", family.name) and family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    told = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(told) == len(samples)
    return told


def of_model(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[f"ecocore_{name}", frozenset({"model_name": MODEL, **labels}.items())]


def test_what_requests_used_is_counted(serving_with: Any) -> None:
    with serving_with() as live:
        before = scrape(live.url)
        assert of_model(before, "num_requests_running") == 0
        assert of_model(before, "kv_cache_usage_perc") == 0
        usage = live.chat(max_tokens=7).json()["usage"]
        live.chat(max_tokens=5, stream=True)
        live.chat(max_tokens=400, stop=["."])
        after = scrape(live.url)
        drawn = of_model(after, "generation_tokens_total")
        assert of_model(after, "prompt_tokens_total") == 3 * usage["prompt_tokens"]
        assert drawn > 7 + 5
        assert of_model(after, "request_success_total", finished_reason="length") == 2
        assert of_model(after, "request_success_total", finished_reason="stop") == 1
        assert of_model(after, "request_generation_tokens_sum") == drawn
        assert of_model(after, "request_prompt_tokens_sum") == 3 * usage["prompt_tokens"]
        for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_generation_tokens"):
            assert of_model(after, f"{name}_count") == 3
            assert of_model(after, f"{name}_bucket", le="+Inf") == 3
        assert of_model(after, "inter_token_latency_seconds_count") <= drawn - 3
        assert of_model(after, "request_generation_tokens_bucket", le="5.0") == 1
        assert of_model(after, "request_generation_tokens_bucket", le="10.0") == 2


def test_what_was_billed_and_refused_is_counted(serving_with: Any, tmp_path: Path) -> None:
    def money(samples: dict[Any, float]) -> list[float]:
        names = ("settlements_total", "balance_refusals_total", "settlements_spooled")
        return [samples[f"ecocore_{name}", frozenset()] for name in names]

    async def fund() -> None:
        database = await Database.open(database_in(tmp_path))
        await Books(database).set_price(MODEL, 10**9, 10**9)
        await Books(database).credit("default", 10**6)
        await database.close()

    with serving_with(prepaid=True) as live:
        live.chat(max_tokens=1)
        assert money(scrape(live.url)) == [0, 0, 0], "a model without a price is no matter of balances"
        asyncio.run(fund())
        assert live.chat(max_tokens=2).status_code == 200
        assert live.chat(max_tokens=10**6, n=8).status_code == 402
        assert money(scrape(live.url)) == [1, 1, 0]


def test_regions_of_one_model_are_counted_together(tmp_path: Path) -> None:
    with Runtime.mock(MODEL) as runtime:
        regions = [LocalRegion(runtime), LocalRegion(runtime)]
        lost = RemoteRegion("lost", "http://127.0.0.1:9", MODEL)
        with answering(tmp_path, regions, elsewhere=[(1, lost)]) as (welcome, _):
            headers = {"authorization": f"Bearer {welcome.first_key}"}
            body = chat_body(max_tokens=3)
            assert httpx.post(f"{welcome.url}/v1/chat/completions", json=body, headers=headers).status_code == 200
            samples = scrape(welcome.url)
            assert of_model(samples, "request_success_total", finished_reason="length") == 1
            assert of_model(samples, "e2e_request_latency_seconds_count") == 1
            assert of_model(samples, "region_up", region="lost") == 0
            assert of_model(samples, "failovers_total") == 0
            assert httpx.get(f"{welcome.url}/ready").status_code == 200
            runtime.close()
            assert httpx.post(f"{welcome.url}/v1/chat/completions", json=body, headers=headers).status_code == 503
            assert of_model(scrape(welcome.url), "failovers_total") == 2
            assert httpx.get(f"{welcome.url}/ready").status_code == 503
        for region in regions:
            region.close()


def test_what_is_left_is_told_as_such(slow: Any) -> None:
    with slow.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], temperature=0, stream=True
        )
        next(iter(stream))
        running = scrape(slow.url)
        assert of_model(running, "num_requests_running") == 1
        assert 0 < of_model(running, "kv_cache_usage_perc") < 1
        stream.close()
    assert slow.becomes_idle()
    assert slow.eventually(lambda: "ecocore_request_success_total" in str(scrape(slow.url).keys()), 5)
    assert of_model(scrape(slow.url), "request_success_total", finished_reason="abort") == 1


def test_answers_are_counted_by_route_and_status(serving_with: Any) -> None:
    with serving_with() as live:
        with live.http() as http:
            http.get("/v1/models/some-maker/some-model")
            http.get("/v1/models/nobody")
            http.get("/nowhere/at/all")
            http.request("BREW", "/health")
        httpx.get(f"{live.url}/v1/models")
        samples = scrape(live.url)
    counts = {
        tuple(dict(labels)[key] for key in ("method", "route", "status")): value
        for (name, labels), value in samples.items()
        if name == "ecocore_http_requests_total"
    }
    assert counts == {
        ("GET", "/v1/models/{model_id:path}", "200"): 1,
        ("GET", "/v1/models/{model_id:path}", "404"): 1,
        ("GET", "other", "404"): 1,
        ("other", "/health", "405"): 1,
        ("GET", "/v1/models", "401"): 1,
    }
    assert samples["ecocore_http_request_duration_seconds_count", frozenset({("method", "GET"), ("route", "other")})] == 1


def test_a_port_of_their_own_shows_the_metrics_and_nothing_else(serving_with: Any) -> None:
    with bind("127.0.0.1", 0) as metrics, serving_with(metrics=metrics) as live:
        url = f"http://127.0.0.1:{metrics.getsockname()[1]}"
        assert httpx.get(f"{live.url}/metrics").status_code == 404
        live.chat(max_tokens=3)
        assert of_model(scrape(url), "generation_tokens_total") == 3
        for path in ("/health", "/v1/models"):
            response = httpx.get(url + path)
            assert response.status_code == 404
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_what_is_no_http_has_an_id_too(live: Any) -> None:
    with live.raw(b"NONSENSE\r\n\r\n") as connection:
        told = read_all(connection)
    assert re.search(rb"\r\nx-request-id: req_[0-9a-f]{32}\r\n", told)
    assert b"\r\nopenai-processing-ms: 0\r\n" in told


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/metrics"])
def test_every_answer_tells_its_id_and_its_time(live: Any, path: str) -> None:
    headers = httpx.get(live.url + path, headers={"x-request-id": "mine-1"}).headers
    assert headers["x-request-id"] == "mine-1"
    assert headers["openai-processing-ms"].isdigit()


def test_the_metrics_port_is_announced(tmp_path: Path) -> None:
    from tests.server.test_serve import process, read_until

    with process(tmp_path, "--metrics-port", "0") as started:
        said = read_until(started, "^curl ")
    url = re.search(r"metrics: (http://127\.0\.0\.1:\d+)/metrics", said)
    assert url is not None

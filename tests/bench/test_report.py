"""The page: whole HTML with its plots inside, nothing from elsewhere, and no word of a server taken for markup."""

import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from tests.bench.runs import URLS, refusing, run_of

from ecocore.bench.compare import Agreement
from ecocore.bench.document import Setting
from ecocore.bench.plan import Run
from ecocore.bench.report import report

VOID = {"meta", "br"}
AGREED = Agreement(8, 7, 0, "prompt 3 parts after 9 characters: '<b>' and 'b'")


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize(
    "run",
    [run_of(1), run_of(2, rounds=2), run_of(1, failing=True), refusing(run_of(1)), run_of(2, levels=(4,))],
    ids=["one", "two", "failing", "refusing", "one level"],
)
def test_the_page_is_whole_and_needs_nothing_else(run: Run) -> None:
    text = report(run, AGREED if len(run.targets) == 2 else None, Setting())
    page = Page(text)
    assert page.elements["svg"] == 4
    assert page.elements["script"] == page.elements["link"] == page.elements["img"] == page.elements["iframe"] == 0
    for name, value in page.attributes:
        assert not re.search(r"//|url\((?!#)|^javascript:", value), (name, value)
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#"), (name, value)
    addresses = set(re.findall(r"[a-z]+://[^\s<\"]+", text))
    assert addresses <= {f"{target.endpoint.url}." for target in run.targets}
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    # What a plot draws in ink takes the page's colour, so that it can be read on either.
    assert text.count("currentColor") > 50
    assert "#010203" not in text


def test_words_of_a_server_are_no_markup() -> None:
    page = Page(report(run_of(1, failing=True), None, Setting()))
    assert page.elements["model"] == page.elements["overloaded"] == 0
    assert "maker/<model> & 0" in page.text
    assert "http: 503 <overloaded>" in page.text


def test_both_servers_stand_in_each_plot_and_the_ratio_in_the_table() -> None:
    page = Page(report(run_of(2, rounds=3), AGREED, Setting()))
    assert page.text.count("A p99") == page.text.count("B p99") == 2
    for streams in ("1 stream", "8 streams", "64 streams"):
        assert streams in page.text
    assert page.words.count("B / A") == 3
    assert "7 of 8 equal; prompt 3 parts after 9 characters: '<b>' and 'b'." in page.text
    assert all(url.rstrip("/v1") in page.text for url in URLS)


def test_a_run_without_a_step_is_a_page_too() -> None:
    run = run_of(1)
    run.steps.clear()
    run.interrupted = True
    page = Page(report(run, None, Setting()))
    assert page.elements["svg"] == 0
    assert "The run was broken off" in page.text


def test_the_same_run_is_the_same_page() -> None:
    setting = Setting()
    assert report(run_of(2), AGREED, setting) == report(run_of(2), AGREED, setting)

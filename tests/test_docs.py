"""Holds the pages to the truth: their Python runs, their commands, options and links exist, nothing public is missing."""

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ecocore
from ecocore import errors

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]

FENCE = re.compile(r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. `note` is the HTML comment right before it: "weights" or "not run: reason"."""

    line: int
    language: str
    note: str
    body: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(text.count("\n", 0, match.start("body")) + 1, match["language"], match["note"] or "", match["body"])
        for match in FENCE.finditer(text)
    ]


def python_blocks(page: Path) -> list[Block]:
    found = [block for block in blocks(page) if block.language == "python"]
    return [block for block in found if not block.note.startswith("not run: ")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- Python ---------------------------------------------------------------------------------------------


def run(page: Path, chosen: list[Block]) -> None:
    """Runs blocks in one namespace; a traceback names the page and its line."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in chosen:
        code = compile("\n" * (block.line - 1) + block.body, name_of(page), "exec")
        exec(code, namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=name_of)
def test_the_python_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(page, [block for block in python_blocks(page) if block.note != "weights"])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.weights
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.note == "weights" for block in python_blocks(page))], ids=name_of
)
def test_the_python_of_a_page_runs_with_the_model(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(page, python_blocks(page))
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_is_left_out_only_with_a_reason(page: Path) -> None:
    notes = [block.note for block in blocks(page) if block.language == "python" and block.note]
    assert all(note == "weights" or re.fullmatch(r"not run: \w.{9,}", note) for note in notes), notes


# --- commands -------------------------------------------------------------------------------------------


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Every command line of `program` on a page, as words: in shell blocks and between backticks."""
    text = page.read_text("utf-8")
    shell = [block.body for block in blocks(page) if block.language in ("", "sh", "bash", "console")]
    lines = [line for body in shell for line in body.replace("\\\n", " ").splitlines()]
    for line in [*lines, *CODE_SPAN.findall(FENCE.sub("", text))]:
        for part in re.split(r"\||&&|;", line):
            words = _words(part)
            while words and (words[0] == "$" or "=" in words[0]):
                words = words[1:]
            if words[:1] == [program] and len(words) > 1:
                yield words[1:]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(page, "make"):
        assert {word for word in words if re.fullmatch(r"[a-z-]+", word)} <= targets, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_of_a_page_is_known(page: Path) -> None:
    from typer.main import get_command

    from ecocore.cli import app

    for words in commands(page, "ecocore"):
        command: Any = get_command(app)
        rest = list(words)
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"ecocore {' '.join(words)}: no such command"
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        for word in rest:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, f"ecocore {' '.join(words)}: no such option"


# --- links and names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "benches" / "README.md"], ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What headings are called in links: small letters, hyphens for spaces, other signs gone."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words_of_the_docs() -> set[str]:
    return set(re.findall(r"\w+", "\n".join(page.read_text("utf-8") for page in (ROOT / "README.md", *DOCS))))


@pytest.mark.parametrize("name", ecocore.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert name in words_of_the_docs()


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(errors, inspect.isclass)])
def test_every_error_is_documented(name: str) -> None:
    assert name in words_of_the_docs()


def test_a_page_of_lies_is_found_out(tmp_path: Path) -> None:
    """The checks above see what they are meant to see."""
    page = tmp_path / "page.md"
    page.write_text(
        "Run `make fly` or `ecocore serve --warp 9`.\n\n"
        "```\nmake test   # fine\necho hi | ecocore chat --mood=good\n```\n\n"
        "<!-- weights -->\n```python\nx = 1\n```\n\n<!-- not run: it never ends -->\n```python\nwhile True: ...\n```\n",
        "utf-8",
    )
    assert list(commands(page, "make")) == [["test"], ["fly"]]
    assert list(commands(page, "ecocore")) == [["chat", "--mood=good"], ["serve", "--warp", "9"]]
    assert [(block.line, block.note) for block in python_blocks(page)] == [(10, "weights")]

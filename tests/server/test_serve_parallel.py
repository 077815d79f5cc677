"""`ecocore serve --tensor-parallel` as a process: what it serves, and that Ctrl-C leaves nothing behind."""

import shlex
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.golden.tiny_models import SEEING, TinyCheckpoint
from tests.regions.isolated import eventually, lives
from tests.server.test_serve import process, read_until
from tests.server.test_serve_isolated import children


def test_ctrl_c_ends_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meetings = tmp_path / "t"
    meetings.mkdir()
    monkeypatch.setenv("TMPDIR", str(meetings))
    folder = TinyCheckpoint(SEEING["qwen2.5-vl"], tmp_path / "tiny").folder
    options = ("--model", f"tiny={folder}", "--tensor-parallel", "2", "--device", "cpu", "--kv-cache-mb", "16")
    with process(tmp_path / "home", *options) as server:
        curl = shlex.split(read_until(server, "^curl ").splitlines()[-1])
        key = next(text for text in curl if text.startswith("Authorization")).split()[-1]
        (worker,) = children(server.pid)
        assert len(list(meetings.iterdir())) == 1
        base = curl[1].removesuffix("/chat/completions")
        with closing(openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=60)) as client:
            ask: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
            answer = client.chat.completions.create(**ask, extra_body={"ignore_eos": True})
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 3
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert eventually(lambda: not lives(worker), 5)
    assert not list(meetings.iterdir())

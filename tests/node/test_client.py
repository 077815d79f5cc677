"""The official client for Node, against a live server: see client.mjs."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rules.conftest import Api
from tests.rules.speaker import Speaker, speaking
from tests.rules.test_tools import called

pytestmark = pytest.mark.node

HERE = Path(__file__).parent

SAID = {
    "chat": "Grüße 😀".encode(),
    "stream": "Grüße 😀".encode(),
    "tools": called("get_weather"),
    "json": b'{"summary": "two are one"}',
    "errors": b"",
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Speaker]]:
    with speaking(tmp_path_factory.mktemp("speaker")) as api_and_speaker:
        yield api_and_speaker


@pytest.mark.parametrize("topic", SAID)
def test_the_node_client_agrees(room: tuple[Api, Speaker], topic: str) -> None:
    api, speaker = room
    speaker.says = SAID[topic]
    environment = {
        **os.environ,
        "ECOCORE_TEST_URL": f"{api.live.url}/v1",
        "ECOCORE_TEST_KEY": api.live.key,
        "ECOCORE_TEST_MODEL": api.model,
    }
    ran = subprocess.run(
        ["node", str(HERE / "client.mjs"), topic], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr

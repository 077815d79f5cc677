"""Every command of docs/operating.md, in the order of the page, as one script of a shell."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.servers import Postgres, Redis, free_port, postgres_programs
from tests.test_docs import DOCS, blocks

from ecocore.weights.embedded import EMBEDDED_MODEL_ID

(PAGE,) = (page for page in DOCS if page.name == "operating.md")

# `ecocore serve` goes on in the background once it answers, and ends when the next one starts, or the script.
PREAMBLE = """
set -Eeuo pipefail
ecocore() {
  if [ "$1" != serve ]; then "$PYTHON" -m ecocore "$@"; return; fi
  stop
  coproc SERVER { exec "$PYTHON" -m ecocore "$@" 2>&1; }
  SERVING=$SERVER_PID
  local line
  while read -r -t 60 line <&"${SERVER[0]}"; do
    echo "serve: $line"
    case $line in "one more key"* | curl*) return 0 ;; esac
  done
  echo "ecocore serve does not answer"
  return 1
}
stop() {
  if [ -n "${SERVING:-}" ]; then kill "$SERVING"; wait "$SERVING" || return 1; SERVING=; fi
}
trap stop EXIT
trap 'echo "failed: $BASH_COMMAND"' ERR
"""


def script(*notes: str) -> str:
    """The commands of the blocks with one of these notes; "" is none."""
    return "\n".join(block.body for block in blocks(PAGE) if block.language == "sh" and block.note in notes)


def run(commands: str, folder: Path, replaced: Mapping[str, str] | None = None) -> str:
    """What a shell says that runs the commands in a folder of its own. They have to succeed."""
    port = free_port()
    for name, value in (replaced or {}).items():
        assert name in commands, f"the page does not say {name}"
        commands = commands.replace(name, value)
    commands = commands.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    (tables,) = (block.body for block in blocks(PAGE) if block.language == "toml")
    (folder / "ecocore.toml").write_text(tables)
    programs = postgres_programs()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ECOCORE_")},
        "PATH": f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"],
        "PYTHON": sys.executable,
        "ECOCORE_HOME": str(folder / "home"),
        "ECOCORE_PORT": str(port),
        "ECOCORE_MODEL": f"{EMBEDDED_MODEL_ID}=mock",
        "FRANKFURT_API_KEY": "sk-frankfurt",
    }
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-c", PREAMBLE + commands],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_block_of_commands_is_run_by_a_test_below() -> None:
    assert {block.note for block in blocks(PAGE) if block.language == "sh"} == {"", "postgres", "redis"}


def test_the_commands_succeed(tmp_path: Path) -> None:
    said = run(script(""), tmp_path)
    assert '"balance":"25.00"' in said
    # 25 and 12.50, and 2.50 taken back.
    assert "team     35.00    0.00      35.00" in said
    assert "frankfurt  https://frankfurt.internal/v1  big, small=maker/small-1b  1         no" in said
    assert said.count("all sums are right") == 2
    assert (tmp_path / "backup.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.postgres
def test_the_commands_for_postgresql_succeed(postgres: Postgres, tmp_path: Path) -> None:
    databases = {name: postgres.create() for name in ("ecocore", "moved", "restored")}
    places = {f"postgresql://ecocore:PASSWORD@db.internal/{name}": postgres.url(made) for name, made in databases.items()}
    try:
        # Without the variable, the page goes on with the file of SQLite that was there before.
        run("ecocore keys create --name old", tmp_path)
        said = run(script("postgres"), tmp_path, places)
        assert said.count("all sums are right") == 2
        assert postgres.ask("SELECT count(*) FROM keys", databases["ecocore"]).strip() == "1"
        assert postgres.ask("SELECT count(*) FROM keys", databases["restored"]).strip() == "1"
    finally:
        for made in databases.values():
            postgres.drop(made)


@pytest.mark.redis
def test_the_commands_for_redis_succeed(redis_server: Redis, tmp_path: Path) -> None:
    run(script("redis"), tmp_path, {"redis://redis.internal:6379/0": redis_server.url})


def test_a_command_that_fails_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"none named 'nobody'[^$]*failed: "):
        run("ecocore keys create --name first\necocore accounts ledger nobody", tmp_path)

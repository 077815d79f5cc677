"""Measures `ecocore serve` with guidellm, a tool of others: 16 streams on the mock engine and on the embedded model.

Makes the folder that guidellm's tokenizer wants from the embedded GGUF file, starts the server on a free port with a home of
its own, runs the tool offline, and fails unless every request was answered. `make guidellm` brings the tool along.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ecocore.weights.embedded import EMBEDDED_MODEL_ID, embedded_model_path

MOCK: Final = "mock"
STREAMS: Final = 16
PROMPT_TOKENS: Final = 64
OUTPUT_TOKENS: Final = 32
OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    url: str
    key: str


def main() -> int:
    options = _parser().parse_args()
    ended_well = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(folder / "tokenizer")
        with serving(folder / "home") as served:
            for model in options.model or (MOCK, EMBEDDED_MODEL_ID):
                print(f"\nguidellm, {model}: {options.requests} requests, {STREAMS} streams", flush=True)
                figures = run(options.guidellm, served, model, options.requests, folder)
                print(summary(figures), flush=True)
                ended_well &= all_answered(figures, options.requests)
    if not ended_well:
        print("guidellm: not every request was answered", file=sys.stderr)
    return 0 if ended_well else 1


def save_tokenizer(folder: Path) -> None:
    """The embedded model's tokenizer as transformers keeps it, from the GGUF file alone."""
    os.environ |= OFFLINE
    from transformers import AutoTokenizer

    path = embedded_model_path()
    AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name).save_pretrained(str(folder))


@contextmanager
def serving(home: Path) -> Iterator[Served]:
    """`ecocore serve` with the embedded model and the mock engine beside it, as a person would start it."""
    environment = {**os.environ, "ECOCORE_HOME": str(home)}
    ecocore = [sys.executable, "-m", "ecocore"]
    key = subprocess.run(
        [*ecocore, "keys", "create", "--name", "guidellm"], env=environment, capture_output=True, check=True, text=True
    )
    command = [*ecocore, "serve", "--port", "0", "--model", f"{MOCK}=mock"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = next(filter(None, (re.search(r"answers at (http\S+)/v1", line) for line in server.stdout)), None)
            if found is None:
                raise RuntimeError(f"the server ended with status {server.wait()} before it answered")
            yield Served(found[1], key.stdout.strip())
        finally:
            server.terminate()


def run(guidellm: Path, served: Served, model: str, requests: int, folder: Path) -> Any:
    """What guidellm found out. `folder` holds the tokenizer. Raises CalledProcessError if it failed."""
    figures = folder / "figures.json"
    command = [
        *(str(guidellm), "run", "--disable-console"),
        *(
            "--backend",
            f"kind=openai_http,target={served.url},model={model},request_format=/v1/chat/completions,api_key={served.key}",
        ),
        *("--tokenizer", f"kind=huggingface_auto,model={folder / 'tokenizer'}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"),
        *("--profile", f"kind=concurrent,streams={STREAMS}"),
        *("--constraint", f"kind=max_requests,count={requests}"),
        *("--seed", "kind=static,value=42"),
        *("--output", f"kind=json,path={figures}"),
    ]
    subprocess.run(command, env={**os.environ, **OFFLINE}, check=True)
    return json.loads(figures.read_text("utf-8"))["benchmarks"][0]["metrics"]


def all_answered(figures: Any, requests: int) -> bool:
    """Every request was answered, at full length and with the usage told."""
    totals, lengths = figures["request_totals"], figures["output_token_count"]["successful"]
    whole = lengths["min"] == lengths["max"] == OUTPUT_TOKENS
    return bool(totals["successful"] == requests and totals["errored"] == totals["incomplete"] == 0 and whole)


def summary(figures: Any) -> str:
    """The figures that one compares, on one line."""
    first, gap = (figures[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    totals = figures["request_totals"]
    return (
        f"{totals['successful']} answered, {totals['errored']} errors, {totals['incomplete']} incomplete; "
        f"{figures['output_tokens_per_second']['total']['mean']:.0f} tokens/s, "
        f"first token {first['median']:.0f} ms (p99 {first['percentiles']['p99']:.0f} ms), "
        f"between tokens {gap['median']:.1f} ms (p99 {gap['percentiles']['p99']:.1f} ms)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.with_guidellm", description=__doc__.partition("\n")[0])
    parser.add_argument("--guidellm", type=Path, default=Path("guidellm"), help="the program (default: found by its name)")
    parser.add_argument("--requests", type=int, default=64, help="for each model (default 64)")
    parser.add_argument("--model", action="append", choices=[MOCK, EMBEDDED_MODEL_ID], help="only this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())

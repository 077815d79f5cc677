"""All benches, each run in a process of its own: pools take their size once, and caches are not shared."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

from benches import bench_decode, bench_frontend, bench_sample, bench_text_stream, bench_tokenize
from benches.harness import Bench, Row, Settings, run_bench

BENCHES: Final[dict[str, Bench]] = {
    bench.name: bench
    for bench in (
        bench_tokenize.BENCH,
        bench_sample.BENCH,
        bench_text_stream.BENCH,
        bench_decode.BENCH,
        bench_frontend.BENCH,
    )
}


def measure(name: str, settings: Settings) -> list[Row]:
    """The rows of one bench. What is being measured is told on standard error."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, name, settings).result()


def _run(name: str, settings: Settings) -> list[Row]:
    bench = BENCHES[name]
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(bench.threads)
    return run_bench(bench, settings, lambda line: print(line, file=sys.stderr, flush=True))

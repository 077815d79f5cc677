"""What a grammar costs: masks alone on random tokens, and steps of the embedded model with and without one.

`python -m benches.bench_grammar` prints two tables. It stands beside the suite, since no peer does the same work: the
question is how much of a mask hides behind the forward pass.
"""

import argparse
import json
import os
import platform
import time
from statistics import median, quantiles
from typing import Any, Final

import numpy as np

ITEM: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
        "note": {"anyOf": [{"type": "string", "maxLength": 80}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "note"],
}
# Never complete, so that every step of every sequence is constrained.
SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "any JSON": {"type": "array", "minItems": 10000},
    "a list of records": {"type": "array", "minItems": 10000, "items": ITEM},
    "a list of patterns": {
        "type": "array",
        "minItems": 10000,
        "items": {"type": "string", "pattern": "^[A-Z][a-z]+(-[0-9]{2,4})?$"},
    },
}
SEQUENCES: Final = 4


class Engine:
    """Sequences that never end, one step at a time."""

    def __init__(self, tokenizer: Any, vocab_size: int, forward: Any, grammar: Any, *, block_size: int, steps: int) -> None:
        from ecocore import SamplingParams
        from ecocore._core import OutputStreams, Scheduler
        from ecocore.sampling.sampler import BatchSampler

        blocks = SEQUENCES * (2 + (steps + 40) // block_size)
        self.scheduler = Scheduler(num_blocks=blocks, block_size=block_size, prefix_caching=False)
        self.outputs, self.sampler, self.forward = OutputStreams(tokenizer), BatchSampler(vocab_size), forward
        for sequence in range(SEQUENCES):
            prompt = np.array(tokenizer.encode("Here is a long JSON document:\n"), np.uint32)
            self.outputs.open(sequence, request_id=0, choice=sequence, prompt_tokens=8, max_tokens=steps + 9, stop=(), end_ids=())
            self.sampler.open(sequence, SamplingParams(temperature=0.7), sequence, 0, prompt, grammar=grammar)
            self.scheduler.submit(sequence, prompt, steps + 9)

    def step(self) -> tuple[float, float]:
        """Seconds of the whole step and of its `sample`, which waits for the masks."""
        start = time.perf_counter()
        batch = self.scheduler.schedule()
        assert batch is not None
        logits = self.forward(batch)
        inputs = self.sampler.prepare(batch)
        ready = time.perf_counter()
        tokens = self.sampler.sample(logits, inputs)
        drawn = time.perf_counter()
        assert not tokens.failed
        self.scheduler.commit(batch, tokens, self.outputs.push(batch, tokens).finished_sequences)
        return time.perf_counter() - start, drawn - ready


def masks(tokenizer: Any, compiler: Any, vocab_size: int, steps: int) -> None:
    """Masks that nothing hides: random logits that cost no time, so that `sample` waits for each mask in full."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((SEQUENCES, vocab_size), np.float32) * 3
    print(f"\nmasks of {SEQUENCES} sequences, V={vocab_size}, random tokens, nothing to hide behind")
    print(f"{'grammar':<20} {'compile ms':>10} {'sample ms':>10} {'p99':>8} {'max':>8}")
    for name, schema in {"none": None, **SCHEMAS}.items():
        start = time.perf_counter()
        grammar = None if schema is None else compiler.json_schema(json.dumps(schema))
        compiled = time.perf_counter() - start
        engine = Engine(tokenizer, vocab_size, lambda batch: noise[: batch.num_samples], grammar, block_size=64, steps=steps)
        waits = []
        for _ in range(steps):
            noise[:] = np.roll(noise, 12345, axis=1)
            waits.append(engine.step()[1] * 1e3)
        waits = waits[1:]
        p99 = quantiles(waits, n=100)[98]
        print(f"{name:<20} {compiled * 1e3:>10.1f} {median(waits):>10.3f} {p99:>8.3f} {max(waits):>8.3f}")


def model_steps(tokenizer: Any, compiler: Any, runner: Any, steps: int, rounds: int) -> None:
    """Steps of the embedded model; the contenders take turns, and medians forgive a busy machine."""
    print(f"\nsteps of SmolLM2-135M, {SEQUENCES} sequences, {rounds} x {steps} steps, by turns")
    print(f"{'grammar':<20} {'step ms':>10} {'sample ms':>10} {'tokens/s':>10} {'slower %':>10}")
    grammars = {"none": None, **{name: compiler.json_schema(json.dumps(schema)) for name, schema in SCHEMAS.items()}}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in grammars}
    for _ in range(rounds):
        engines = {
            name: Engine(tokenizer, runner.vocab_size, runner.forward, grammar, block_size=runner.block_size, steps=steps)
            for name, grammar in grammars.items()
        }
        for name, engine in engines.items():
            engine.step()
            taken[name] += [engine.step() for _ in range(steps)]
    plain = median(step for step, _ in taken["none"])
    for name, each in taken.items():
        step, sample = median(step for step, _ in each), median(sample for _, sample in each)
        slower = (step / plain - 1) * 100
        print(f"{name:<20} {step * 1e3:>10.2f} {sample * 1e3:>10.3f} {SEQUENCES / step:>10.1f} {slower:>10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    from ecocore import _core
    from ecocore.families import family_of
    from ecocore.model.runner import ModelRunner
    from ecocore.weights.checkpoint import open_checkpoint
    from ecocore.weights.embedded import embedded_model_path

    checkpoint = open_checkpoint(embedded_model_path())
    tokenizer = _core.Tokenizer.from_file(checkpoint.tokenizer_path)
    family = family_of(checkpoint)
    runner = ModelRunner.load(
        family.model_class(), family.configure(checkpoint), checkpoint,
        precision=None, device="cpu", kv_cache_bytes=2**27, block_size=64, progress=lambda *_: None,
    )  # fmt: skip
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    start = time.perf_counter()
    compiler = _core.GrammarCompiler(tokenizer, runner.vocab_size, sorted(checkpoint.end_ids))
    print(f"token trie of {runner.vocab_size} tokens: {(time.perf_counter() - start) * 1e3:.0f} ms")
    masks(tokenizer, compiler, runner.vocab_size, 10 * chosen.steps)
    model_steps(tokenizer, compiler, runner, chosen.steps, chosen.rounds)


if __name__ == "__main__":
    main()

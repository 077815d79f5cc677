"""The scheduler and the mock model as Python sees them; the rules themselves are tested in Rust."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ecocore import _core
from ecocore.errors import ContextLengthExceeded, InternalError, InvalidParameter, QueueFull
from ecocore.model.sight import IMAGE_TOKENS, uncut_tokens


def prompt(length: int) -> NDArray[np.uint32]:
    return np.arange(100, 100 + length, dtype=np.uint32)


def scheduled(scheduler: _core.Scheduler) -> _core.Batch:
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.check_integrity()
    return batch


class Engine:
    """The spine without a model: the mock's logits, the real sampler, output and scheduler."""

    def __init__(self, **config: int) -> None:
        tokenizer = _core.Tokenizer.bytes_only()
        self.vocab_size = tokenizer.vocab_size
        self.scheduler = _core.Scheduler(**config)  # type: ignore[arg-type]
        self.sampler = _core.SamplerState(self.vocab_size)
        self.outputs = _core.OutputStreams(tokenizer)
        self.texts: dict[int, str] = {}
        self.usage: dict[int, tuple[int, int, int, int]] = {}

    def submit(self, sequence_id: int, text: str, max_tokens: int) -> None:
        ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32)
        self.scheduler.submit(sequence_id, ids, max_tokens)
        self.sampler.open(sequence_id, _core.SamplerParams(), seed=sequence_id, choice=0, prompt=ids)
        self.outputs.open(sequence_id, request_id=sequence_id, choice=0, prompt_tokens=len(ids), max_tokens=max_tokens)
        self.texts[sequence_id] = ""

    def run(self) -> None:
        while (batch := self.scheduler.schedule()) is not None:
            logits = np.empty((batch.num_samples, self.vocab_size), dtype=np.float32)
            _core.mock_logits(batch, logits)
            tokens = self.sampler.sample(logits, self.sampler.prepare(batch))
            events = self.outputs.push(batch, tokens)
            self.scheduler.commit(batch, tokens, events.finished_sequences)
            self.scheduler.check_integrity()
            for event in events.rows():
                self.texts[event.request_id] += event.text
                if event.kind == "finished":
                    self.usage[event.request_id] = event.usage
        assert not self.scheduler.has_work()


def test_no_step_computes_a_part_of_a_span_that_is_whole() -> None:
    scheduler = _core.Scheduler(num_blocks=64, block_size=4, max_batch_tokens=16)
    scheduler.submit(1, prompt(60), 4, whole=[(10, 33), (40, 41), (50, 59)])
    edges: list[int] = []
    sampler = _core.SamplerState(300)
    sampler.open(1, _core.SamplerParams(temperature=0.0), seed=1, choice=0, prompt=prompt(60))
    while (edges[-1] if edges else 0) < 60:
        batch = scheduled(scheduler)
        edges.append(int(batch.starts[0] + batch.lengths[0]))
        tokens = sampler.sample(np.zeros((batch.num_samples, 300), np.float32), sampler.prepare(batch))
        scheduler.commit(batch, tokens, [])
    assert edges == [10, 36, 50, 60]


@pytest.mark.parametrize("tokens", [280, IMAGE_TOKENS])
@pytest.mark.parametrize("offset", [0, 1, 32, 33, 63])
def test_no_step_computes_more_than_one_of_the_images_that_stand_side_by_side(tokens: int, offset: int) -> None:
    scheduler = _core.Scheduler(groups=[(2000, None), (2000, 1024)], max_batch_tokens=829)
    # Sixteen of them, with only their marks between, beside a stream that draws.
    whole = [(start, start + tokens) for start in range(5 + offset, 5 + offset + 16 * (tokens + 2), tokens + 2)]
    length = whole[-1][1] + 9
    sampler = _core.SamplerState(300)
    for sequence_id in (1, 2):
        sampler.open(sequence_id, _core.SamplerParams(), seed=1, choice=0, prompt=prompt(1))
    scheduler.submit(1, prompt(1), 1000)
    steps: list[int] = []
    while sum(steps) < 1 + length:
        batch = scheduler.schedule(prompt_tokens=64)
        assert batch is not None
        steps.append(batch.num_prompt_tokens)
        tokens_drawn = sampler.sample(np.zeros((batch.num_samples, 300), np.float32), sampler.prepare(batch))
        scheduler.commit(batch, tokens_drawn, [])
        if len(steps) == 1:
            scheduler.submit(2, prompt(length), 1, whole=whole)
    longest = max(steps)
    assert longest <= tokens + 63
    assert longest - 64 < uncut_tokens(looks_around=True, block_size=64)


def test_text_reads_the_same_in_a_crowd_that_preempts_as_alone() -> None:
    prompts = {sequence_id: "Tell me about rivers." + "?" * sequence_id for sequence_id in range(6)}
    crowd = Engine(num_blocks=16, block_size=4, max_batch_tokens=16)
    for sequence_id, text in prompts.items():
        crowd.submit(sequence_id, text, 30)
    crowd.run()

    assert crowd.scheduler.stats()["preemptions"] > 0
    for sequence_id, text in prompts.items():
        alone = Engine(num_blocks=100)
        alone.submit(sequence_id, text, 30)
        alone.run()
        assert crowd.texts[sequence_id] == alone.texts[sequence_id]
        assert len(crowd.texts[sequence_id]) == 30
        assert crowd.usage[sequence_id][::2] == (len(text), 30)


def test_a_repeated_prompt_is_found_in_the_cache_and_counted() -> None:
    engine = Engine(num_blocks=16, block_size=4)
    for sequence_id in range(2):
        engine.submit(sequence_id, "0123456789", 3)
        engine.run()
    assert engine.usage == {0: (10, 0, 3, 0), 1: (10, 8, 3, 0)}
    stats = engine.scheduler.stats()
    assert (stats["prefix_queries"], stats["prefix_hits"]) == (20, 8)


def test_a_prompt_that_shows_another_image_finds_what_stands_before_it() -> None:
    scheduler = _core.Scheduler(num_blocks=64, block_size=4)
    sampler = _core.SamplerState(300)

    def found(sequence_id: int, shown: list[tuple[int, bytes]]) -> int:
        before = scheduler.stats()["prefix_hits"]
        scheduler.submit(sequence_id, prompt(40), 1, shown=shown)
        sampler.open(sequence_id, _core.SamplerParams(), seed=1, choice=0, prompt=prompt(40))
        while scheduler.has_work():
            batch = scheduled(scheduler)
            tokens = sampler.sample(np.zeros((batch.num_samples, 300), np.float32), sampler.prepare(batch))
            scheduler.commit(batch, tokens, [])
        return scheduler.stats()["prefix_hits"] - before

    turns = [[(6, b"cat")], [(6, b"cat"), (30, b"dog")], [(6, b"dog"), (30, b"dog")], [(6, b"cat"), (30, b"dog")]]
    assert [found(number, shown) for number, shown in enumerate(turns, 1)] == [0, 28, 4, 36]


def test_a_batch_tells_which_positions_go_into_which_slots() -> None:
    scheduler = _core.Scheduler(num_blocks=8, block_size=4, max_batch_tokens=12)
    scheduler.submit(7, prompt(10), max_tokens=2)
    scheduler.submit(8, prompt(3), max_tokens=2, salt=b"another tenant")
    batch = scheduled(scheduler)

    assert (batch.num_rows, batch.num_tokens, batch.num_samples, batch.block_size) == (1, 10, 1, 4)
    assert batch.sequence_ids.tolist() == [7]
    assert (batch.starts.tolist(), batch.lengths.tolist(), batch.prompt_lengths.tolist()) == ([0], [10], [10])
    assert batch.token_ids.tolist() == list(range(100, 110))
    assert batch.positions.tolist() == list(range(10))
    (blocks,) = batch.block_tables[0]
    assert batch.slots.tolist() == [[blocks[i // 4] * 4 + i % 4 for i in range(10)]]
    assert batch.sample_indices.tolist() == [9]

    following = scheduled(scheduler)  # with the first step in flight: its token is not known yet
    assert following.sequence_ids.tolist() == [7, 8]
    assert following.token_ids.tolist() == [-1, 100, 101, 102]
    assert following.block_tables.shape == (1, 2, 3)
    assert following.block_tables[0, 1, 1:].tolist() == [-1, -1]
    assert following.sample_indices.tolist() == [0, 3]


def test_a_cancelled_sequence_frees_its_blocks_when_its_step_is_over() -> None:
    scheduler = _core.Scheduler(num_blocks=4, block_size=4)
    scheduler.submit(1, prompt(5), 3)
    batch = scheduled(scheduler)
    assert scheduler.cancel(1)
    assert not scheduler.cancel(1)
    assert scheduler.stats()["free_blocks"] == 2
    scheduler.abandon(batch)
    assert scheduler.stats() == {
        "waiting": 0,
        "running": 0,
        "free_blocks": 4,
        "cached_blocks": 0,
        "total_blocks": 4,
        "windowed_free_blocks": 0,
        "windowed_total_blocks": 0,
        "prefix_queries": 5,
        "prefix_hits": 0,
        "preemptions": 0,
        "blocked": 0,
    }
    assert not scheduler.has_work()
    assert scheduler.schedule() is None
    with pytest.raises(InternalError, match="not in flight"):
        scheduler.abandon(batch)


def test_what_the_pool_and_the_queue_can_not_take_is_refused_at_once() -> None:
    scheduler = _core.Scheduler(num_blocks=2, block_size=4, max_waiting=1)
    with pytest.raises(ContextLengthExceeded, match="needs 9 tokens of context, this model has 8"):
        scheduler.submit(1, prompt(5), 4)
    with pytest.raises(ContextLengthExceeded):
        scheduler.submit(1, prompt(5), 2**62)
    scheduler.submit(1, prompt(5), 3)
    with pytest.raises(QueueFull):
        scheduler.submit(2, prompt(5), 3)
    assert scheduler.stats()["waiting"] == 1


@pytest.mark.parametrize(
    ("sequence_id", "length", "max_tokens", "param"),
    [(1, 5, 3, "sequence_id"), (2, 0, 3, "prompt"), (2, 5, 0, "max_tokens"), (2, 5, -1, "max_tokens")],
)
def test_the_error_names_the_parameter_at_fault(sequence_id: int, length: int, max_tokens: int, param: str) -> None:
    scheduler = _core.Scheduler(num_blocks=4, block_size=4)
    scheduler.submit(1, prompt(5), 3)
    with pytest.raises(InvalidParameter) as caught:
        scheduler.submit(sequence_id, prompt(length), max_tokens)
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "max_sequences", "max_batch_tokens", "max_waiting"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_scheduler_of_nothing_is_refused(name: str, value: int) -> None:
    config = {"num_blocks": 4, name: value}
    with pytest.raises(InvalidParameter) as caught:
        _core.Scheduler(**config)  # type: ignore[arg-type]
    assert caught.value.param == name


def test_a_prompt_may_be_a_view_with_strides() -> None:
    scheduler = _core.Scheduler(num_blocks=4, block_size=4)
    scheduler.submit(1, np.arange(12, dtype=np.uint32)[::3], 3)
    assert scheduled(scheduler).token_ids.tolist() == [0, 3, 6, 9]


def test_the_mock_model_spells_ascii_and_never_its_end() -> None:
    scheduler = _core.Scheduler(num_blocks=8, block_size=4)
    scheduler.submit(1, prompt(3), 9)
    logits = np.full((1, 300), np.nan, dtype=np.float32)
    _core.mock_logits(scheduled(scheduler), logits)
    assert logits[0].argmax() < 128
    assert logits[0].argmin() == 256
    assert np.count_nonzero(logits) == 2


@pytest.mark.parametrize("shape", [(2, 300), (1, 256), (0, 300)])
def test_the_mock_model_refuses_an_array_of_another_shape(shape: tuple[int, int]) -> None:
    scheduler = _core.Scheduler(num_blocks=8, block_size=4)
    scheduler.submit(1, prompt(3), 9)
    batch = scheduled(scheduler)
    with pytest.raises(InvalidParameter, match="out: must have"):
        _core.mock_logits(batch, np.zeros(shape, dtype=np.float32))
    with pytest.raises(InvalidParameter, match="out: must be contiguous"):
        _core.mock_logits(batch, np.zeros((300, 1), dtype=np.float32).T[:, ::2])

"""A whole model: the ecocore runtime in `exact` beside transformers, float32 on the same dequantised weights.

Both sides begin with messages and end with text: template, tokens, greedy decoding with a KV cache, text.
transformers takes eight requests as one left-padded batch; ecocore takes them from eight threads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Final

from benches import workloads
from benches.harness import Absent, Bench, Case, Peer, Settings

PEER: Final = "transformers float32"
STREAMS: Final = 8
TOKENS: Final = 64
PROMPT_TOKENS: Final = 500

QUESTIONS: Final = (
    "Write a long story about a lighthouse keeper who finds a letter.",
    "Explain in detail how a bicycle stays upright.",
    "Describe a day in the life of a baker in a small town.",
    "List twenty animals and say something about each of them.",
    "Explain step by step how bread is made.",
    "Write a long letter to a friend about a journey by train.",
    "Describe how rain forms, from the sea to the cloud to the ground.",
    "Tell me about the planets of the solar system, one after another.",
)


def cases(settings: Settings) -> Iterator[Case]:
    from ecocore import Runtime

    tokens = 4 if settings.quick else TOKENS
    with Runtime.load(precision="exact", progress=False) as runtime:
        peer = _Transformers(runtime) if workloads.has("transformers", "gguf") else None
        yield _single(runtime, peer, tokens)
        yield _prefill(runtime, peer, 40 if settings.quick else PROMPT_TOKENS)
        yield _crowd(runtime, peer, tokens)


def _single(runtime: Any, peer: "_Transformers | None", tokens: int) -> Case:
    def ours(question: str = QUESTIONS[0]) -> list[tuple[str, int]]:
        return [_answer(runtime, question, tokens)]

    def theirs() -> list[tuple[str, int]]:
        assert peer is not None
        return peer.answers(QUESTIONS[:1], tokens)

    peers = (_peer(peer, theirs, ours),)
    return Case(f"one stream, {tokens} tokens", "token", _produced(ours()), ours, peers, rate=(1, "tokens/s"))


def _prefill(runtime: Any, peer: "_Transformers | None", length: int) -> Case:
    """A text that was never seen before in every run, so that no prefix cache helps."""
    numbers = count()
    document = workloads.documents(1)[0]

    def question(number: int) -> str:
        ids = runtime.tokenizer.encode(f"Text {number:05}: {document}")[:length]
        return str(runtime.tokenizer.decode(ids))

    def ours(number: int | None = None) -> list[tuple[str, int]]:
        return [_answer(runtime, question(next(numbers) if number is None else number), 1)]

    def theirs(number: int | None = None) -> list[tuple[str, int]]:
        assert peer is not None
        return peer.answers([question(next(numbers) if number is None else number)], 1)

    peers = (_peer(peer, lambda: theirs(0), lambda: ours(0), theirs),)
    prompt_tokens = runtime.chat(question(0), max_tokens=1).usage.prompt_tokens
    return Case(f"prefill of {prompt_tokens} tokens", "token", prompt_tokens, ours, peers, rate=(1, "tokens/s"))


def _crowd(runtime: Any, peer: "_Transformers | None", tokens: int) -> Case:
    def ours() -> list[tuple[str, int]]:
        with ThreadPoolExecutor(STREAMS) as pool:
            return list(pool.map(lambda question: _answer(runtime, question, tokens), QUESTIONS))

    def theirs() -> list[tuple[str, int]]:
        assert peer is not None
        return peer.answers(QUESTIONS, tokens)

    peers = (_peer(peer, theirs, ours),)
    workload = f"{STREAMS} streams, {tokens} tokens each"
    return Case(workload, "token", _produced(ours()), ours, peers, rate=(1, "tokens/s"))


Answers = Callable[[], list[tuple[str, int]]]


def _peer(peer: "_Transformers | None", theirs: Answers, ours: Answers, run: Answers | None = None) -> Peer | Absent:
    return Absent(PEER) if peer is None else Peer(PEER, run or theirs, lambda: ours() == theirs())


def _answer(runtime: Any, question: str, tokens: int) -> tuple[str, int]:
    completion = runtime.chat(question, temperature=0, max_tokens=tokens)
    return completion.text, completion.usage.completion_tokens


def _produced(answers: list[tuple[str, int]]) -> int:
    return sum(tokens for _, tokens in answers)


class _Transformers:
    """`LlamaForCausalLM.generate` on the weights of the embedded model."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._tokenizer = runtime.tokenizer
        self._model = workloads.transformers_model()

    def answers(self, questions: Any, tokens: int) -> list[tuple[str, int]]:
        """(text, completion tokens) of each question."""
        import torch

        prompts = [self._prompt(question) for question in questions]
        width = max(map(len, prompts))
        end = self._model.config.eos_token_id
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, pad_token_id=end
            )
        return [self._text(row.tolist(), end) for row in out[:, width:]]

    def _prompt(self, question: str) -> list[int]:
        """The same template and the same tokens as ecocore's."""
        from ecocore.request import ChatRequest

        messages = [{"role": "user", "content": question}]
        request = ChatRequest.parse({"model": self._runtime.model_id, "messages": messages})
        return [int(token_id) for token_id in self._runtime.prepare(request).token_ids]

    def _text(self, ids: list[int], end: int) -> tuple[str, int]:
        """The end token counts and is no text; what follows it is padding."""
        length = ids.index(end) + 1 if end in ids else len(ids)
        return self._tokenizer.decode(ids[:length], skip_special_tokens=True), length


BENCH = Bench("decode", threads=2, cases=cases)

"""The embedded model over HTTP, asked by the official client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Live, serving

from ecocore.runtime import Runtime

pytestmark = pytest.mark.weights

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, smollm2: Runtime) -> Iterator[Live]:
    with serving(Path(tmp_path_factory.mktemp("smollm2")), model=smollm2) as server:
        yield server


def test_plain_streamed_and_embedded_answers_are_one(embedded: Live, smollm2: Runtime) -> None:
    client = embedded.client()
    plain = client.chat.completions.create(model=smollm2.model_id, **QUESTION).choices[0].message.content
    stream = client.chat.completions.create(model=smollm2.model_id, stream=True, **QUESTION)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert plain == streamed == smollm2.chat(**QUESTION).text == "The capital of France is Paris."


def test_a_seed_repeats_an_answer_over_http(embedded: Live, smollm2: Runtime) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Invent a name."}], "seed": 5, "max_tokens": 12}
    client = embedded.client()
    answers = {client.chat.completions.create(model=smollm2.model_id, **asked).choices[0].message.content for _ in range(3)}
    assert answers == {smollm2.chat(**asked).text}


def test_a_scored_prompt_has_the_log_probabilities_of_single_steps(embedded: Live, smollm2: Runtime) -> None:
    """The second opinion draws each token after the tokens before it; the raw log-probability knows no bias."""
    ids = smollm2.tokenizer.encode("The capital of France is Paris, and the river is the Seine.")
    client = embedded.client()

    def ask(prompt: list[int], **fields: Any) -> Any:
        return (
            client.completions.create(model=smollm2.model_id, prompt=prompt, temperature=0, logprobs=1, **fields)
            .choices[0]
            .logprobs
        )

    scored = ask(ids, echo=True, max_tokens=0)
    assert scored.tokens == [smollm2.tokenizer.token_bytes(token).decode() for token in ids]
    assert scored.token_logprobs[0] is None
    for place in range(1, len(ids)):
        single = ask(ids[:place], max_tokens=1, logit_bias={str(ids[place]): 100})
        assert single.token_logprobs[0] == pytest.approx(scored.token_logprobs[place], abs=1e-4)

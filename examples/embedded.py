"""A model inside your own program: a whole answer, a stream, many callers at once, reproducible draws."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import ecocore


def main() -> None:
    with ecocore.load() as runtime:
        answer = runtime.chat("What is the capital of France?", temperature=0, max_tokens=32)
        print(f"answer: {answer}")
        print(f"tokens: {answer.usage.prompt_tokens} in, {answer.usage.completion_tokens} out, {answer.finish_reason}")

        print("stream: ", end="")
        for event in runtime.stream("Count from 1 to 5.", temperature=0, max_tokens=24):
            if isinstance(event, ecocore.TextDelta):
                print(event.text.replace("\n", " "), end="", flush=True)
        print()

        # Callers of any thread share one batch; a seed gives the same answer alone and in a crowd.
        questions = [f"Name {animal}." for animal in ("an owl", "a fox", "a whale", "a bee")]
        with ThreadPoolExecutor(len(questions)) as pool:
            together = list(pool.map(partial(ask, runtime), questions))
        alone = [ask(runtime, question) for question in questions]
        print(f"threads: {len(together)} answers, {'the same' if together == alone else 'not the same'} as alone")


def ask(runtime: ecocore.Runtime, question: str) -> str:
    return runtime.chat(question, seed=7, max_tokens=12).text


if __name__ == "__main__":
    main()

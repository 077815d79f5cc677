"""Token ids to text with stop strings, in a generation loop of your own: one call per step for all sequences.

    python examples/text_stream.py [tokenizer.json or GGUF file]

Without a file it takes the byte tokenizer, whose tokens are the bytes of UTF-8.
"""

import sys

from ecocore import TextStream, Tokenizer

# What a model would answer; ecocore needs to know nothing of where the ids come from.
ANSWERS = [
    "Grüße! 👋\nUser: and what else?",
    "A list:\n- one\n- two\n\n",
    "The user said: User",
]
STOP = ["\nUser:", "\n\n"]


def main() -> None:
    tokenizer = Tokenizer.from_file(sys.argv[1]) if len(sys.argv) > 1 else Tokenizer.bytes_only()
    streams = TextStream(tokenizer)
    running = {streams.open(STOP): tokenizer.encode(answer) for answer in ANSWERS}
    texts = dict.fromkeys(running, "")

    while running:
        handles = list(running)
        ids = [running[handle].pop(0) for handle in handles]  # your model's step

        pieces, stopped = streams.push(handles, ids)

        for handle, piece, stop in zip(handles, pieces, stopped, strict=True):
            texts[handle] += piece
            if stop or not running[handle]:
                # What was held back for a stop that never came belongs to the text.
                texts[handle] += streams.finish(handle)
                del running[handle]
                print(f"{'stop' if stop else 'end '} {texts[handle]!r}")


if __name__ == "__main__":
    main()

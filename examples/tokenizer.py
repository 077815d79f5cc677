"""Text to token ids and back, whole and as it arrives.

    python examples/tokenizer.py [tokenizer.json or GGUF file]

Without a file it takes the byte tokenizer, whose tokens are the bytes of UTF-8.
"""

import sys

from ecocore import Tokenizer


def main() -> None:
    tokenizer = Tokenizer.from_file(sys.argv[1]) if len(sys.argv) > 1 else Tokenizer.bytes_only()

    ids = tokenizer.encode("Grüße aus Zürich 🏔️")
    print(f"{len(ids)} of {tokenizer.vocab_size} tokens:", ids)
    print("decoded:", tokenizer.decode(ids))

    # A model gives one token at a time, and a token may end inside a character: a stream holds that
    # character back, and nothing else.
    stream = tokenizer.stream(skip_special_tokens=True)
    pieces = [stream.push(token_id) for token_id in ids]
    print("streamed:", [*pieces, stream.finish()])


if __name__ == "__main__":
    main()

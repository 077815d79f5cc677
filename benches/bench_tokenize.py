"""Text to ids: `ecocore.Tokenizer` beside Hugging Face `tokenizers`, one call and one Python list per text."""

from collections.abc import Callable, Iterator

from benches import workloads
from benches.harness import Absent, Bench, Case, Peer, Settings, same

PEER = "tokenizers"

Encode = Callable[[], list[list[int]]]


def cases(settings: Settings) -> Iterator[Case]:
    """Several different texts per run, so that no cache answers for the whole text."""
    yield _case("short question, 30 B", [workloads.SHORT])
    yield _case("chat message, 255 B", workloads.chat_messages(2 if settings.quick else 64))
    yield _case("document, 32 kB", workloads.documents(1 if settings.quick else 8))


def _case(workload: str, texts: list[str]) -> Case:
    from ecocore import Tokenizer

    encode = Tokenizer.from_file(workloads.model_path()).encode

    def ours() -> list[list[int]]:
        return [encode(text) for text in texts]

    megabytes = sum(len(text.encode()) for text in texts) / len(texts) / 1e6
    return Case(workload, "text", len(texts), ours, (_hugging_face(texts, ours),), rate=(megabytes, "MB/s"))


def _hugging_face(texts: list[str], ours: Encode) -> Peer | Absent:
    if not workloads.has("tokenizers", "gguf"):
        return Absent(PEER)
    encode = workloads.hugging_face_tokenizer().encode

    def theirs() -> list[list[int]]:
        return [encode(text, add_special_tokens=False).ids for text in texts]

    return Peer(PEER, theirs, same(ours, theirs))


BENCH = Bench("tokenize", threads=1, cases=cases)

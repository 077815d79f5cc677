"""Server-sent events: bytes cut anywhere -> what each event says. Leaves the meaning to others."""


class EventSplitter:
    """Gives the data of whole events; comments, names and ids are dropped, lines may end in any of the three ways."""

    def __init__(self) -> None:
        """For one stream."""
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that is whole now."""
        if self._held:
            data = self._held + data
        if b"\r" in data:
            # The second half of a line end may still be on its way.
            late = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(late).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + late
        *whole, self._held = data.split(b"\n\n")
        return [said for event in whole if (said := _said(event)) is not None]


def _said(event: bytes) -> bytes | None:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(lines) if lines else None

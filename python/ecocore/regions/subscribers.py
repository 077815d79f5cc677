"""Who hears the events of a region that comes over a connection: takes events, calls everybody who wants them."""

import logging
from collections.abc import Callable

from ecocore._core import EventBatch

log = logging.getLogger(__name__)


class Subscribers:
    """Callbacks. One that fails takes nothing from the others."""

    def __init__(self) -> None:
        self._callbacks: tuple[Callable[[EventBatch], None], ...] = ()

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """From now on `callback` is called; the result ends that."""
        self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            self._callbacks = tuple(one for one in self._callbacks if one is not callback)

        return unsubscribe

    def tell(self, events: EventBatch) -> None:
        """Calls everybody, unless there is nothing to tell."""
        if not len(events):
            return
        for callback in self._callbacks:
            try:
                callback(events)
            except Exception:
                log.exception("a subscriber of a region's events failed")

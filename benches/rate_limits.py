"""What the limits of a key cost a request: the figures of docs/rate-limits.md.

    python -m benches.rate_limits [--redis redis+unix:///path/to/redis.sock] [--calls 5000]

One call counts a request and tells where the key stands. Processor time is this process's own. The rows of `limits` are the
library's memory storage with its exact window and with its counter, which the first row stands in for.
"""

import argparse
import asyncio
import platform
import statistics
import time
from collections.abc import Awaitable, Callable

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from ecocore.accounts.limits import Counted, KeyCounts
from ecocore.accounts.shared_limits import SharedLimits

ROUNDS = 5
LIMIT = 10**6


async def measure(name: str, calls: int, call: Callable[[], Awaitable[object]]) -> None:
    """Prints the median of the rounds; the first warms up and does not count."""
    took, used = [], []
    for _ in range(ROUNDS + 1):
        begun, processor = time.perf_counter(), time.process_time()
        for _ in range(calls):
            await call()
        took.append((time.perf_counter() - begun) / calls * 1e6)
        used.append((time.process_time() - processor) / calls * 1e6)
    wall, processor = statistics.median(took[1:]), statistics.median(used[1:])
    print(f"{name:36} {wall:8.1f} us ({min(took[1:]):.1f} to {max(took[1:]):.1f}), {processor:.1f} us of processor")


async def run(redis: str | None, calls: int) -> None:
    own = KeyCounts()
    await measure("this process", calls, lambda: own.take(1, Counted.REQUESTS, 1, LIMIT))
    item = RateLimitItemPerMinute(LIMIT)
    moving, counter = MovingWindowRateLimiter(MemoryStorage()), SlidingWindowCounterRateLimiter(MemoryStorage())

    async def ask(limiter: MovingWindowRateLimiter | SlidingWindowCounterRateLimiter) -> None:
        await limiter.hit(item, "key")
        await limiter.get_window_stats(item, "key")

    await measure("limits, memory, counter", calls, lambda: ask(counter))
    # Each hit copies the list of all hits before it.
    await measure("limits, memory, exact window", min(calls, 500), lambda: ask(moving))
    if redis is not None:
        shared = SharedLimits.at(redis)
        limits = KeyCounts(shared)
        async with limits.connected():
            await measure("Redis", calls, lambda: limits.take(2, Counted.REQUESTS, 1, LIMIT))
            print("Redis was lost meanwhile" if shared.lost else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis")
    parser.add_argument("--calls", type=int, default=5000)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.calls} calls, median of {ROUNDS} rounds")
    asyncio.run(run(options.redis, options.calls))


if __name__ == "__main__":
    main()

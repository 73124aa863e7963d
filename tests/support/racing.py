"""Writers that start in the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def winners(wins: Callable[[int], bool], writers: int) -> list[int]:
    """Numbers of the writers to whom `wins`, called by all at once with their number, said yes. Its errors are raised."""
    start = threading.Barrier(writers)

    def write(number: int) -> bool:
        start.wait()
        return wins(number)

    with ThreadPoolExecutor(writers) as threads:
        return [number for number, won in enumerate(threads.map(write, range(writers))) if won]

"""Admission: who may send a photo now. Decided before the photo is read, so that no memory is taken for the rest."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from im2sp.server.refusals import Refusal

_CLIENTS_REMEMBERED = 4_096


class Slot:
    """A place in the queue, to be given back once."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self.kept = False  # by somebody who will release it later
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give the place back; again does nothing."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()


class Admission:
    """Counts the places of the queue, in all and by client. For one event loop, so without locks."""

    def __init__(self, places: int, share: int, wait: Callable[[int], float]) -> None:
        """`wait`: photos in the queue -> seconds until one of them is done."""
        self.taken = 0
        self._places = places
        self._share = share
        self._wait = wait
        self._by_client: Counter[str] = Counter()

    def enter(self, client: str) -> Slot:
        """A place for `client`. Raises Refusal 429 when all, or all of its share, are taken."""
        if self.taken >= self._places:
            raise Refusal(429, "the queue is full; try again in a moment", retry_after=self._wait(self.taken))
        if self._by_client[client] >= self._share:
            raise Refusal(
                429, "you have as many photos in the queue as one client may have", retry_after=self._wait(self.taken)
            )
        self.taken += 1
        self._by_client[client] += 1
        return Slot(lambda: self._leave(client))

    def _leave(self, client: str) -> None:
        self.taken -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]


class RateLimit:
    """A bucket of a minute's requests for each client, refilled steadily."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute`: 0 lets everybody through."""
        self._size = float(per_minute)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (requests left, when)

    def charge(self, client: str) -> None:
        """Count one request. Raises Refusal 429 when the client has none left."""
        if not self._size:
            return
        now, refill = self._clock(), self._size / 60
        left, since = self._buckets.pop(client, (self._size, now))
        left = min(self._size, left + (now - since) * refill)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        while len(self._buckets) > _CLIENTS_REMEMBERED:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(429, "too many requests; slow down", retry_after=(1 - left) / refill)


def client_of(address: tuple[str, int] | None) -> str:
    """Whom a connection counts for: its address, of IPv6 the network (one household has 2^64 addresses)."""
    if address is None:
        return "?"
    try:
        parsed = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return address[0]
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)

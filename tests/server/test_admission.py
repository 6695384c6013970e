"""Admission: places in the queue, and how often a client may ask."""

from __future__ import annotations

import pytest

from im2sp.server.admission import Admission, RateLimit, client_of
from im2sp.server.refusals import Refusal


def test_places_are_given_until_they_are_taken_and_once_back_again() -> None:
    admission = Admission(places=2, share=2, wait=lambda waiting: 1.5 * waiting)
    first, second = admission.enter("a"), admission.enter("b")
    with pytest.raises(Refusal, match="queue is full") as refusal:
        admission.enter("c")
    assert refusal.value.status == 429
    assert refusal.value.response().headers["retry-after"] == "3"
    first.release()
    first.release()
    assert admission.taken == 1
    admission.enter("c")
    second.release()
    assert admission.taken == 1


def test_one_client_leaves_places_for_the_others() -> None:
    admission = Admission(places=8, share=2, wait=lambda _: 1)
    slots = [admission.enter("a"), admission.enter("a")]
    with pytest.raises(Refusal, match="one client"):
        admission.enter("a")
    admission.enter("b")
    slots[0].release()
    admission.enter("a")


def test_the_rate_refills() -> None:
    now = 0.0
    rate = RateLimit(60, clock=lambda: now)
    for _ in range(60):
        rate.charge("a")
    with pytest.raises(Refusal) as refusal:
        rate.charge("a")
    assert refusal.value.retry_after == pytest.approx(1)
    rate.charge("b")
    now = 1.0
    rate.charge("a")
    with pytest.raises(Refusal):
        rate.charge("a")


def test_no_rate_is_no_limit() -> None:
    rate = RateLimit(0)
    for _ in range(1000):
        rate.charge("a")


def test_strangers_do_not_fill_the_memory() -> None:
    rate = RateLimit(60)
    for number in range(10_000):
        rate.charge(str(number))
    assert len(rate._buckets) < 5_000


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8::1", 1), "2001:db8::/64"),
        (("2001:db8::ffff:1", 1), "2001:db8::/64"),
        (("2001:db8:0:1::1", 1), "2001:db8:0:1::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (None, "?"),
        (("a socket", 0), "a socket"),
    ],
)
def test_whom_a_connection_counts_for(address: tuple[str, int] | None, client: str) -> None:
    assert client_of(address) == client

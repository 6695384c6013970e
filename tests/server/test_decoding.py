"""A picture that takes long to decode holds up neither the others nor the end of the service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from im2sp.captioner import Captioner
from im2sp.server.settings import Settings
from tests.image.test_isolation import progressive_of_scans
from tests.server.conftest import JPEG, serving


def test_a_slow_picture_holds_up_nobody(captioner: Captioner, photo: bytes) -> None:
    slow = progressive_of_scans(17_000)  # 10 seconds of processor time, then it would be refused
    with serving(captioner, Settings(shutdown_seconds=1)) as served, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(served.client.post, "/v1/captions", content=slow, headers=JPEG) for _ in range(3)]
        served.wait_for("im2sp_queue 3.0")
        assert served.client.post("/v1/captions", content=photo, headers=JPEG).status_code == 200
        assert not waiting[-1].done()
        served.end()
        served.thread.join(30)
        assert not served.thread.is_alive()

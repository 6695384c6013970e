"""The routes, over real HTTP: what a photo is answered with, what is refused, and who may ask."""

from __future__ import annotations

import base64
import io
import json
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.server.guard import SECURITY_HEADERS
from im2sp.server.settings import Settings
from im2sp.speech.audio import SAMPLE_RATE, encode_wav
from im2sp.speech.whisper import WordRecogniser
from tests.server.conftest import JPEG, JSON, GatedCaptioner, Served, serving

GREEDY = DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40)
LINES = {"Accept": "application/x-ndjson"}
TOKEN = "0123456789abcdef"


def sentence(response: httpx.Response) -> str:
    """Return the sentence of a refusal, which holds nothing else."""
    answer = response.json()
    assert list(answer) == ["error"]
    assert "\n" not in answer["error"]
    return str(answer["error"])


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("bundle", ["tiny_bundle", "unit_bundle"])
def test_a_raw_photo_becomes_a_wav(bundle: str, photo: bytes, request: pytest.FixtureRequest) -> None:
    captioner = Captioner.from_pretrained(request.getfixturevalue(bundle), threads=1)
    caption = captioner.caption(photo)
    with serving(captioner, Settings()) as service:
        for content in (photo, iter([photo[:100], photo[100:]])):  # with and without a length
            response = service.client.post("/v1/captions", content=content, headers=JPEG)
            assert (response.status_code, response.headers["content-type"]) == (200, "audio/wav")
            assert response.content == encode_wav(caption.waveform)
            assert float(response.headers["im2sp-score"]) == pytest.approx(caption.score, abs=1e-3)
            assert "im2sp-probability" not in response.headers


def test_a_form_is_answered_as_json(served: Served, captioner: Captioner, photo: bytes) -> None:
    caption = captioner.caption(photo)
    for audio in (False, True):
        form = {"photo": ("x.jpg", photo)}
        response = served.client.post("/v1/captions", files=form, headers=JSON, params={"audio": audio})
        answer = response.json()
        assert response.status_code == 200
        assert answer["units"] == caption.units.tolist()
        assert answer["durations"] == caption.durations.tolist()
        assert answer["score"] == pytest.approx(caption.score)
        assert answer["speech_seconds"] == len(caption.waveform) / SAMPLE_RATE
        assert answer["sample_rate"] == SAMPLE_RATE
        assert ("wav" in answer) is audio
    assert base64.b64decode(answer["wav"]) == encode_wav(caption.waveform)


def test_options_reach_the_decoder(served: Served, captioner: Captioner, photo: bytes) -> None:
    sampled = replace(GREEDY, temperature=1.5, seed=3)
    for params, options in (({"beam": 1}, GREEDY), ({"temperature": 1.5, "seed": 3}, sampled)):
        answer = served.client.post("/v1/captions", content=photo, params=params, headers=JSON).json()
        assert answer["units"] == captioner.caption(photo, options).units.tolist()


def test_many_at_once_get_each_their_own(captioner: Captioner, served: Served) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (20, 20, 3), dtype=np.uint8) // (1 + number) for number in range(8)]

    def ask(picture: np.ndarray) -> object:
        return served.client.post("/v1/captions", content=png(Image.fromarray(picture)), headers=JSON).json()["units"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, pictures))
    assert answers == [captioner.caption(picture).units.tolist() for picture in pictures]


def test_streams_are_the_greedy_caption_in_pieces(served: Served, captioner: Captioner, photo: bytes) -> None:
    def post(accept: str) -> httpx.Response:
        return served.client.post("/v1/captions/stream", content=photo, headers={"Accept": accept})

    whole = captioner.caption(photo, GREEDY)
    wav, pcm, lines = post("audio/wav"), post("audio/L16"), post("application/x-ndjson")
    assert wav.headers["transfer-encoding"] == "chunked"
    samples = np.frombuffer(wav.content[44:], "<i2")
    np.testing.assert_allclose(samples / 32768, whole.waveform.clip(-1, 1 - 2**-15), atol=2 / 32768)
    waveform, rate = soundfile.read(io.BytesIO(wav.content))  # although its header tells no length
    assert (rate, len(waveform)) == (SAMPLE_RATE, len(samples))
    assert pcm.headers["content-type"] == "audio/L16;rate=16000;channels=1"
    assert np.frombuffer(pcm.content, ">i2").tolist() == samples.tolist()
    *chunks, answer = [json.loads(line) for line in lines.text.splitlines()]
    assert len(chunks) > 1
    assert b"".join(base64.b64decode(chunk["pcm"]) for chunk in chunks) == samples.tobytes()
    assert answer["units"] == whole.units.tolist()


def test_the_words_that_a_recogniser_heard(served: Served, captioner: Captioner, photo: bytes) -> None:
    class Recogniser(WordRecogniser):
        def __init__(self) -> None:
            pass

        def text(self, waveform: np.ndarray) -> str:
            return f"{len(waveform)} samples"

    lines = {"Accept": "application/x-ndjson"}
    with serving(captioner, Settings(), Recogniser()) as service:
        whole = service.client.post("/v1/captions?words=true&beam=1", content=photo, headers=JSON).json()
        *_, answer, heard = service.client.post(
            "/v1/captions/stream?words=true", content=photo, headers=lines
        ).iter_lines()
        unasked = service.client.post("/v1/captions/stream", content=photo, headers=lines).text
    samples = len(captioner.caption(photo, GREEDY).waveform)
    assert json.loads(heard) == {"heard": whole["heard"]} == {"heard": f"{samples} samples"}
    assert "heard" not in json.loads(answer)
    assert "heard" not in unasked
    none = served.client.post("/v1/captions/stream?words=true", content=photo, headers=lines).text
    assert "heard" not in none  # this service has no recogniser


@pytest.mark.parametrize("path", ["/v1/captions?beam=1", "/v1/captions/stream?"])
def test_attention_comes_on_request(served: Served, captioner: Captioner, photo: bytes, path: str) -> None:
    kinds = {"Accept": "application/json, application/x-ndjson"}
    without = served.client.post(path, content=photo, headers=kinds)
    assert "attention" not in json.loads(without.text.splitlines()[-1])
    response = served.client.post(f"{path}&attention=true", content=photo, headers=kinds)
    found = json.loads(response.text.splitlines()[-1])["attention"]
    caption = captioner.caption(photo, GREEDY)
    rows, columns = captioner.bundle.config.image.grid
    assert (found["rows"], found["columns"]) == (rows, columns)
    np.testing.assert_allclose(found["maps"], caption.attention[:, -rows * columns :], atol=1e-5)
    assert len(found["boundaries"]) == len(caption.tokens) + 1
    assert found["boundaries"][0] == found["edges"][0] == 0
    assert found["boundaries"][-1] == found["edges"][-1] == pytest.approx(len(caption.waveform) / SAMPLE_RATE)
    assert len(found["places"]) == len(found["stretches"]) == len(found["edges"]) - 1


@pytest.mark.parametrize(
    ("request_", "status", "part"),
    [
        ({"content": b""}, 400, "no photo"),
        ({"files": {"picture": ("x.jpg", b"abc")}}, 400, "no file 'photo'"),
        ({"files": [("photo", ("a", b"abc")), ("photo", ("b", b"abc"))]}, 400, "too many files"),
        ({"content": b"abc", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"abc", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "form"),
        ({"content": b"abc", "headers": {"Content-Type": "text/plain"}}, 415, "send a photo"),
        ({"content": b"abc", "headers": {"Content-Encoding": "gzip"}}, 415, "compressed"),
        ({"content": b"abc"}, 422, "not a picture"),
        ({"content": png(Image.new("1", (9_000, 9_000)))}, 422, "too large"),
        ({"content": b"abc", "headers": {"Accept": "text/html"}}, 406, "Accept"),
        ({"content": b"abc", "params": {"beam": 9}}, 422, "beam"),
        ({"content": b"abc", "params": {"temperature": 1, "beam": 2}}, 422, "sampling"),
        ({"content": b"abc", "params": {"min_confidence": 0.5}}, 422, "not calibrated"),
        ({"content": b"abc", "params": {"min_confidence": 0.5, "always": True}}, 422, "not both"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/captions", "/v1/captions/stream"])
def test_what_is_not_served(served: Served, path: str, request_: dict[str, object], status: int, part: str) -> None:
    response = served.client.post(path, **request_)  # type: ignore[arg-type]
    assert response.status_code == status
    assert part.lower() in sentence(response).lower()


def test_addresses_and_methods_that_do_not_exist(served: Served) -> None:
    for path in ("/nothing", "/docs", "/static/../app.py", "/static/%2e%2e/app.py"):
        response = served.client.get(path)
        assert response.status_code == 404
        assert sentence(response)
    response = served.client.get("/v1/captions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_defect_is_a_sentence_and_no_more(captioner: Captioner, photo: bytes) -> None:
    def fail(pixels: np.ndarray) -> None:
        raise ValueError("secret")

    defective = Captioner(captioner.bundle, threads=1)
    defective.image_encoder.encode_pixels = fail  # type: ignore[method-assign, assignment]
    with serving(defective, Settings()) as service:
        response = service.client.post("/v1/captions", content=photo)
        assert response.status_code == 500
        assert "secret" not in sentence(response)
        assert service.client.get("/healthz").status_code == 200


def test_a_full_queue_says_when_to_come_back(gated: GatedCaptioner, photo: bytes) -> None:
    with serving(gated, Settings(queue=2, max_per_client=2)) as service, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(service.client.post, "/v1/captions", content=photo) for _ in range(2)]
        assert gated.reached.acquire(timeout=10)
        service.wait_for("im2sp_queue 2.0")
        response = service.client.post("/v1/captions", content=photo)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert "queue is full" in sentence(response)
        assert service.client.get("/healthz").status_code == 200
        gated.gate.set()
        assert [future.result().status_code for future in asked] == [200, 200]
        assert service.client.post("/v1/captions", content=photo).status_code == 200
        service.wait_for("im2sp_queue 0.0")


def test_a_client_behind_a_proxy_has_a_share_of_its_own(gated: GatedCaptioner, photo: bytes) -> None:
    with serving(gated, Settings(max_per_client=1)) as service, ThreadPoolExecutor(2) as pool:

        def post(client: str) -> httpx.Response:
            return service.client.post("/v1/captions", content=photo, headers={"X-Forwarded-For": client})

        asked = [pool.submit(post, client) for client in ("192.0.2.1", "192.0.2.2")]
        service.wait_for("im2sp_queue 2.0")
        response = post("192.0.2.1")
        assert (response.status_code, "one client" in sentence(response)) == (429, True)
        gated.gate.set()
        assert [future.result().status_code for future in asked] == [200, 200]


def test_speech_that_takes_too_long(gated: GatedCaptioner, photo: bytes) -> None:
    with serving(gated, Settings(request_seconds=0.1)) as service:
        response = service.client.post("/v1/captions", content=photo)
        assert response.status_code == 503
        assert "retry-after" in response.headers
        gated.gate.set()


def test_who_leaves_is_not_worked_for(gated: GatedCaptioner, photo: bytes) -> None:
    head = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(photo)
    with serving(gated, Settings()) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.client.post, "/v1/captions", content=photo)
        assert gated.reached.acquire(timeout=10)
        with socket.create_connection(("127.0.0.1", service.port)) as second:
            second.sendall(head + photo)
            service.wait_for("im2sp_queue 2.0")
        service.wait_for('route="/v1/captions",status="400"')  # it has been noticed that nobody waits
        gated.gate.set()
        assert first.result().status_code == 200
        service.wait_for("im2sp_given_up_total 1.0")
        assert "im2sp_captions_total 1.0" in service.client.get("/metrics").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_names_and_origins(served: Served, method: str, headers: dict[str, str], status: int) -> None:
    response = served.client.request(method, "/healthz", headers=headers | {"Access-Control-Request-Method": "POST"})
    assert response.status_code == (405 if (method, status) == ("OPTIONS", 200) else status)
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_token(captioner: Captioner, photo: bytes) -> None:
    with serving(captioner, Settings(token=TOKEN)) as service:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}, {"Authorization": ""}):
            response = service.client.post("/v1/captions", content=photo, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert service.client.get("/metrics").status_code == 401
        assert service.client.get("/openapi.json").status_code == 401
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert service.client.post("/v1/captions", content=photo, headers=allowed).status_code == 200
        assert service.client.get("/metrics", headers=allowed).status_code == 200
        for public in ("/", "/healthz", "/static/page.js"):
            assert service.client.get(public).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/openapi.json", "/nothing", "/static/page.css"])
def test_every_answer_has_the_security_headers(served: Served, path: str) -> None:
    response = served.client.get(path)
    assert {name: response.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert response.headers["cache-control"] in ("no-store", "no-cache")
    assert "server" not in response.headers


def test_metrics_name_nobody(served: Served, photo: bytes) -> None:
    served.client.post("/v1/captions", content=photo)
    served.client.request("STRANGE", "/strange")
    text = served.client.get("/metrics").text
    assert 'im2sp_requests_total{method="POST",route="/v1/captions",status="200"}' in text
    assert 'im2sp_requests_total{method="other",route="none",status="404"}' in text
    assert "im2sp_speech_seconds_total" in text
    assert "strange" not in text.lower()
    assert "127.0.0.1" not in text


def test_openapi_tells_what_to_send_and_what_comes_back(served: Served) -> None:
    description = served.client.get("/openapi.json").json()
    assert set(description["paths"]) == {"/v1/captions", "/v1/captions/stream", "/healthz", "/metrics"}
    post = description["paths"]["/v1/captions"]["post"]
    assert set(post["requestBody"]["content"]) == {"image/*", "application/octet-stream", "multipart/form-data"}
    assert set(post["responses"]["200"]["content"]) == {"audio/wav", "application/json"}
    assert {"400", "401", "408", "413", "422", "429", "503"} <= set(post["responses"])


def test_no_photo_goes_to_disk(served: Served, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", written.append)
    large = photo + bytes(3 * 2**20)  # more than the library would keep in memory by itself
    response = served.client.post("/v1/captions", files={"photo": ("x.jpg", large)})
    assert response.status_code == 200
    assert written == []

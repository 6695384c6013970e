"""Settings: who needs a token, which tokens will do, by which names the service may be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from im2sp.errors import Im2SpError
from im2sp.server.service import client_of
from im2sp.server.settings import TOKEN_VARIABLE, Settings, read_token

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert Settings(host=host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.example.org", ""])
def test_other_hosts_need_one(host: str) -> None:
    with pytest.raises(Im2SpError, match="token is needed"):
        Settings(host=host)
    assert Settings(host=host, token=TOKEN).token == TOKEN


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert read_token(None) == TOKEN
    file = tmp_path / "token"
    file.write_text("another-token-of-length\n")
    assert read_token(file) == "another-token-of-length"


@pytest.mark.parametrize("content", [b"short", b"0123456789 abcdef", "0123456789abcdé".encode()])
def test_tokens_that_will_not_do(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(Im2SpError, match="the token in"):
        read_token(file)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("LOCALHOST.", True),
        ("localhost:8000", True),
        ("[::1]:8000", True),
        ("192.168.1.7", True),
        ("Photos.Example", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_names_of_the_service(name: str, known: bool) -> None:
    assert Settings(allowed_hosts=("photos.example",)).allows_host(name) is known


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8::1", 1), "2001:db8::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (None, "?"),
        (("a socket", 0), "a socket"),
    ],
)
def test_whom_a_connection_counts_for(address: tuple[str, int] | None, client: str) -> None:
    assert client_of(address) == client

"""Endpoints behind TLS: a real handshake on loopback, with certificates that are made here."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scripted_server import QUICK, ScriptedServer, numbered

from pacore_rl.inference.client import Client, request_body
from pacore_rl.inference.connect import EndpointError, find_model
from pacore_rl.inference.settings import Endpoint

REPOSITORY = Path(__file__).parents[2]
BODY = request_body("tiny", [{"role": "user", "content": "2 + 2?"}], {})


class TlsServer(ScriptedServer):
    """A scripted server that speaks TLS with the certificate and key in a PEM file."""

    def __init__(self, pem: Path) -> None:
        super().__init__(numbered)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pem)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


@dataclass(frozen=True)
class Certificate:
    served: Path
    """With its key."""
    trusted: Path
    """What a client is given."""


def self_signed(folder: Path, *, days: int = 1) -> Certificate:
    """A certificate for 127.0.0.1, and for no name, that is valid from ten days ago until ``days`` from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scripted")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    found = Certificate(served=folder / "served.pem", trusted=folder / "trusted.pem")
    found.served.write_bytes(pem + secret)
    found.trusted.write_bytes(pem)
    return found


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path)


@pytest.fixture
async def tls(certificate: Certificate) -> AsyncIterator[TlsServer]:
    async with TlsServer(certificate.served) as running:
        yield running


async def refusal(url: str) -> str:
    """What is said before the first question."""
    async with Client([Endpoint.of(url)], QUICK) as client:
        with pytest.raises(EndpointError) as caught:
            await find_model(client, None, options={})
    return str(caught.value)


async def test_a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do(tls: TlsServer) -> None:
    message = await refusal(tls.url)
    assert f"certificate of the endpoint {tls.url} is not accepted (self-signed certificate)" in message
    assert "set SSL_CERT_FILE to a PEM file" in message and "start the server" not in message
    async with Client([Endpoint.of(tls.url, api_key="secret")], QUICK) as client:
        completion = await client.complete(BODY, replica=client.route())
    assert completion.failure is not None and completion.failure.kind == "unreachable"
    assert "certificate verify failed: self-signed certificate" in completion.failure.message
    assert tls.num_connections == 0 and not tls.headers, "neither the question nor the key went out"


async def test_one_that_is_trusted_serves(
    tls: TlsServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.trusted))
    async with Client([Endpoint.of(tls.url, api_key="secret")], QUICK) as client:
        assert (await find_model(client, None, options={})).name == "tiny"
        completions = await asyncio.gather(*(client.complete(BODY, replica=client.route()) for _ in range(8)))
    assert [completion.failure for completion in completions] == [None] * 8
    assert tls.headers[0]["authorization"] == "Bearer secret"


async def test_it_must_be_for_the_host_of_the_endpoint(
    tls: TlsServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.trusted))
    message = await refusal(f"https://localhost:{tls.port}/v1")
    assert "is not valid for 'localhost'). " in message
    assert "the host in --endpoint must be one that it is for" in message


async def test_it_must_not_have_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expired = self_signed(tmp_path, days=-1)
    monkeypatch.setenv("SSL_CERT_FILE", str(expired.trusted))
    async with TlsServer(expired.served) as server:
        assert "is not accepted (certificate has expired)" in await refusal(server.url)


async def test_http_for_https_and_the_other_way_round_are_told(tls: TlsServer) -> None:
    message = await refusal(tls.url.replace("https://", "http://"))
    assert "closed the connection" in message and "begins with https://." in message

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As HTTP servers do with what is no request."""
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as plain:
        message = await refusal(f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/v1")
    assert "does not speak TLS" in message and "begins with http://." in message


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_file_of_certificates_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(ValueError, match=f"SSL_CERT_FILE={path} cannot be read .*; name a PEM file, or unset it"):
        Client([Endpoint.of("https://127.0.0.1:1/v1")])


async def test_infer_says_so_and_what_it_says_helps(tls: TlsServer, certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "p", "prompt": "2 + 2?"}\n')

    async def infer(**environment: str) -> tuple[int | None, str]:
        command = [sys.executable, "-m", "pacore_rl", "infer", "q.jsonl", "-o", "a.jsonl", "--endpoint", tls.url]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode, " ".join(said.decode().split())

    code, said = await infer()
    assert code == 2 and "set SSL_CERT_FILE to a PEM file" in said and not (tmp_path / "a.jsonl").exists()
    code, said = await infer(SSL_CERT_FILE=str(certificate.trusted))
    assert (code, said) == (0, "") and '"outcome":"answered"' in (tmp_path / "a.jsonl").read_text()

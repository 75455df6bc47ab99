"""The address of a Ray cluster, tried before Ray tries it: a wrong one costs Ray two minutes and ends the process."""

from __future__ import annotations

import os
import socket

from ray._private import services

CONNECT_SECONDS = 5.0
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How every gRPC conversation begins: the fixed greeting, and settings with nothing in them (RFC 9113, section 3.4)."""
FRAME_HEADER_BYTES, FRAME_TYPE_SETTINGS = 9, 4


def check_authentication() -> None:
    """Refuse a cluster that runs whatever anybody sends it.

    Raises:
        ValueError: Ray's token authentication was turned off.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise ValueError(
            f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} turns Ray's token authentication off: whoever reaches its "
            "ports would run code as you. Unset it, or set it to token (docs/clusters.md says where the token lies)."
        )


def resolve_address(address: str) -> str:
    """The host:port behind ``cluster.address``, where something answers as Ray's head does.

    Raises:
        ValueError: no cluster runs there.
    """
    found = services.canonicalize_bootstrap_address(address) if address == "auto" else address
    if found is None:
        raise ValueError(
            "cluster.address=auto, but no Ray cluster runs on this machine; start one with `ray start --head`, give "
            "host:port of one elsewhere, or leave cluster.address out for a private one."
        )
    host, _, port = found.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"cluster.address={address} is not host:port, such as 10.0.0.1:6379, and not 'auto'.")
    start_it = (
        "Start it with `ray start --head --port=PORT`, correct the address, or leave it out for a private cluster."
    )
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
            greeted = _greets_as_grpc(connection)
    except OSError as error:
        raise ValueError(
            f"cluster.address={address}: nothing can be reached at {host}:{port} within {CONNECT_SECONDS:.0f} s "
            f"({error}). {start_it}"
        ) from error
    # With TLS the greeting is encrypted, and the open port has to do.
    if not greeted and os.environ.get("RAY_USE_TLS", "0") != "1":
        raise ValueError(
            f"cluster.address={address}: the port is in use by something that is not a Ray head. {start_it}"
        )
    return found


def _greets_as_grpc(connection: socket.socket) -> bool:
    """Whether the other side answers as gRPC servers do: with a settings frame."""
    connection.sendall(HTTP2_PREFACE)
    header = b""
    try:
        while len(header) < FRAME_HEADER_BYTES:
            received = connection.recv(FRAME_HEADER_BYTES - len(header))
            if not received:
                return False
            header += received
    except (TimeoutError, ConnectionResetError):
        return False
    return header[3] == FRAME_TYPE_SETTINGS

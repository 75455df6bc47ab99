"""The address of a Ray cluster, tried before Ray tries it: a wrong one costs Ray two minutes and ends the process."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray
from ray._private import services
from ray._private.authentication import authentication_token_setup
from ray.exceptions import AuthenticationError

CONNECT_SECONDS = 5.0
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How every gRPC conversation begins: the fixed greeting, and settings with nothing in them (RFC 9113, section 3.4)."""
FRAME_HEADER_BYTES, FRAME_TYPE_SETTINGS = 9, 4


def join(address: str, **options: Any) -> None:
    """Connect this process to the cluster at ``cluster.address``, with this machine's token if it has one.

    Ray sends its token by itself only where it has found the cluster by itself.

    Args:
        options: more arguments of ``ray.init``.

    Raises:
        ValueError: see ``check_authentication`` and ``resolve_address``; or the cluster does not take this machine's
            token, or wants one and there is none.
    """
    check_authentication()
    found = resolve_address(address)
    # Its warning advises to turn the token off.
    logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
    has_token = authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        ray.init(address=found, log_to_driver=False, **options)
    except (ConnectionError, AuthenticationError) as error:
        own = "another token than this machine's" if has_token else "a token, perhaps, and this machine has none"
        raise ValueError(
            f"cluster.address={address}: a Ray head answers at {found} and does not let this process join ({error}). "
            f"It wants {own}: copy ~/.ray/auth_token from the head, or set RAY_AUTH_TOKEN (docs/clusters.md)."
        ) from error


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
    found = address
    if address == "auto":
        try:
            found = services.canonicalize_bootstrap_address(address)
        except ConnectionError:  # Ray says so where no cluster has been here, and returns None where one is gone
            found = None
    if found is None:
        raise ValueError(
            "cluster.address=auto, but no Ray cluster runs on this machine; start one with `ray start --head`, give "
            "host:port of one elsewhere, or leave cluster.address out (cluster.address=null) for a private one."
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

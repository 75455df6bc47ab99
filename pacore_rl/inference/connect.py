"""Before the first question: is the endpoint there, does it serve the model, and is its window large enough?"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from pacore_rl.inference.answering import Model
from pacore_rl.inference.client import Client, Replica, error_message
from pacore_rl.inference.conversation import Message
from pacore_rl.inference.counting import PromptCounter

MAX_RESERVE_SHARE = 4
"""By default a prompt leaves a quarter of the window for the answer."""


class EndpointError(ValueError):
    """An endpoint that cannot be used as it is; the message says what to change."""


async def find_model(
    client: Client,
    name: str | None,
    *,
    options: Mapping[str, Any],
    reserve_tokens: int | None = None,
    window_tokens: int | None = None,
) -> Model:
    """The model as every endpoint of the client serves it.

    Args:
        name: None takes the only one there is.
        options: sampling options of every call; with ``max_tokens`` the reserve is as large.
        reserve_tokens: None is ``max_tokens``, or else a quarter of the window.
        window_tokens: None asks the endpoints, of which vLLM says.

    Raises EndpointError for an endpoint that is down or refuses the key, a model that it lacks, and a window too small
    for what is asked.
    """
    served = [await _served_or_told(replica) for replica in client.replicas]
    if name is None:
        names = sorted(set(served[0]).intersection(*served[1:]))
        if len(names) != 1:
            raise EndpointError(f"the endpoints have {names or 'no model in common'}; name one with --model.")
        name = names[0]
    for replica, models in zip(client.replicas, served, strict=True):
        if name not in models:
            raise EndpointError(
                f"{replica.endpoint.base_url} does not serve the model {name!r}; it serves "
                f"{replica.endpoint.told(str(sorted(models)))}. Give one of these with --model, or start the server "
                "with `--served-model-name`."
            )
    windows = [models[name] for models in served]
    window = window_tokens or min((w for w in windows if w is not None), default=None)
    max_tokens = options.get("max_tokens")
    reserve = reserve_tokens or max_tokens or (window or 0) // MAX_RESERVE_SHARE
    if max_tokens is not None and max_tokens > reserve:
        raise EndpointError(
            f"max_tokens={max_tokens} exceeds the reserve of {reserve} tokens that prompts leave for the answer; lower "
            "it, or raise --reserve-tokens."
        )
    if window is not None and window - reserve < 1:
        raise EndpointError(
            f"the window of {name!r} is {window} tokens, and {reserve} are reserved for the answer: no prompt has "
            "room. Lower --max-tokens or --reserve-tokens, or serve the model with a larger --max-model-len."
        )
    return Model(name=name, window_tokens=window, reserve_tokens=reserve, options=options)


async def check_longest(model: Model, counter: PromptCounter, conversations: Mapping[str, Sequence[Message]]) -> None:
    """Raise EndpointError where the longest of the plain questions (by id) leaves no room for its answer."""
    room = model.room_tokens
    if room is None or not conversations:
        return
    id = max(conversations, key=lambda id: len(str(conversations[id])))
    count = await counter.count(conversations[id], room_tokens=room)
    if count > room and not counter.num_estimated:
        raise EndpointError(
            f"the question {id!r} has {count:,} tokens; with {model.reserve_tokens:,} reserved for the answer it does "
            f"not fit the window of {model.window_tokens:,}. Serve the model with a larger "
            "--max-model-len, lower --reserve-tokens or --max-tokens, or take the question out."
        )


async def _served_or_told(replica: Replica) -> dict[str, int | None]:
    """As ``_served``; what is wrong is told without the key."""
    try:
        return await _served(replica)
    except EndpointError as error:
        raise EndpointError(replica.endpoint.told(str(error))) from None


async def _served(replica: Replica) -> dict[str, int | None]:
    """The models of an endpoint with their windows, where it says."""
    url = replica.endpoint.base_url
    try:
        response = await replica.transport.call("GET", f"{url}/models")
    except httpx.HTTPError as error:
        raise EndpointError(_unreached(url, error)) from None
    if response.status_code in (401, 403):
        raise EndpointError(
            f"the endpoint {url} refuses the API key ({response.status_code}); set it in the environment variable of "
            "--api-key-variable."
        )
    try:
        listed = response.json()["data"] if response.status_code == 200 else None
        models = {str(model["id"]): model.get("max_model_len") for model in listed or ()}
    except (ValueError, KeyError, TypeError, AttributeError):
        models = {}
    if not models:
        raise EndpointError(
            f"{url}/models answered {response.status_code} and lists no model "
            f"({error_message(response.content)[:200]}); --endpoint must be the address of an OpenAI-compatible "
            "server, such as http://127.0.0.1:8000/v1."
        )
    return {id: length if isinstance(length, int) and length > 0 else None for id, length in models.items()}


def _unreached(url: str, error: httpx.HTTPError) -> str:
    """Why an endpoint gave no response, and what to do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return (
            f"the certificate of the endpoint {url} is not accepted ({cause.verify_message.rstrip('.')}). For one of "
            "your own, set SSL_CERT_FILE to a PEM file that holds it or the authority that signed it (in the place of "
            "the public ones); the host in --endpoint must be one that it is for."
        )
    shown = f"({type(error).__name__}: {error})"
    if url.startswith("http://") and isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
        return f"the endpoint {url} closed the connection {shown}; if it speaks TLS, its address begins with https://."
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER_FAILURE" in str(error):
        return f"the endpoint {url} does not speak TLS {shown}; its address begins with http://."
    return (
        f"the endpoint {url} cannot be reached {shown}; start the server, for instance with "
        "`vllm serve MODEL --port 8000`, or correct --endpoint."
    )

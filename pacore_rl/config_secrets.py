"""Recipes hold no secrets: a resolved recipe is written into the run's folder, sent to wandb, and shown in the report.

Settings name the environment variable that holds a key (``reward.judge.api_key_variable``). What slips in all the same,
through ``${oc.env:NAME}`` or the command line, is refused before it is written or shown anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

MIN_SECRET_CHARS = 8
"""A shorter value is likelier to be in a recipe by chance."""
_NAME = re.compile(r"(?:^|_)(?:API_?KEY|ACCESS_KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@", re.IGNORECASE)


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that hold a secret, judged by their names."""
    return {name: value for name, value in environment.items() if _NAME.search(name) and len(value) >= MIN_SECRET_CHARS}


def check_no_secrets(values: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Refuse settings that hold the value of a secret variable, or an address with a password in it.

    Raises:
        ValueError: names the setting, and never shows its value.
    """
    secrets = secrets_of(environment)
    for key, text in _texts(values, ""):
        for name, secret in secrets.items():
            if secret in text:
                raise ValueError(
                    f"{key} holds the value of the environment variable {name}. A recipe is copied into the run's "
                    "folder and its logs, so it must hold no secret: name the variable in a setting such as "
                    "reward.judge.api_key_variable, or take the value out."
                )
        if _URL.search(text):
            raise ValueError(
                f"{key} is an address with a password in it. A recipe is copied into the run's folder and its logs: "
                "give the address without it, and the key in an environment variable."
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in cast(Mapping[Any, Any], value).items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        yield key, value
    elif isinstance(value, Sequence):
        for number, inner in enumerate(cast(Sequence[Any], value)):
            yield from _texts(inner, f"{key}[{number}]")

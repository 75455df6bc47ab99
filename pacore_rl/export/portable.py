"""A recipe as it can be shown to others: without the folders of the machine it ran on."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml

from pacore_rl import __version__
from pacore_rl.config import Config


def portable_recipe(config: Config) -> str:
    """The resolved recipe as YAML, absolute paths cut to their last two parts."""
    body = yaml.safe_dump(portable(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True, width=120)
    return f"# The settings of the run that made this model (pacore-rl {__version__}); paths are its own.\n{body}"


def portable(value: Any) -> Any:
    """The same tree, absolute paths in it cut to their last two parts."""
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    return short_path(value) if isinstance(value, str) else value


def short_path(text: str) -> str:
    """A hub id or a relative path as it is; an absolute path, or one from the home folder, by its last two parts."""
    if not text.startswith(("/", "~")):
        return text
    return "/".join(PurePosixPath(text).parts[-2:]).lstrip("/")

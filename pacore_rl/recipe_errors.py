"""What is wrong with a recipe, in lines of ``key: what was given; what must hold; what to do``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pacore_rl.settings import Setting, is_section, plain, sections, setting_at, settings, settings_within

CUTOFF = 0.6
"""Similarity (difflib's ratio) below which a name is no longer a likely misspelling."""


class RecipeError(ValueError):
    """A recipe that cannot become a run; its message is a screen of plain text, to be shown as it is."""


def describe_unknown(values: Mapping[str, Any], where: Callable[[str], str]) -> list[str]:
    """A line for every key of ``values`` that the configuration does not have; ``where`` tells where a key was set."""
    return [_unknown_line(key, where(key)) for key in _unknown_keys(values)]


def nearest(key: str) -> list[str]:
    """Up to three dotted names that ``key`` may have meant, the likeliest first.

    The whole path is compared, and the last name by itself: ``steps`` alone finds ``trainer.steps``.
    """
    candidates = [*sections(), *(setting.key for setting in settings())]
    leaf = key.rpartition(".")[2]
    scored = sorted(((_similarity(key, leaf, name), name) for name in candidates), key=lambda pair: -pair[0])
    best = scored[0][0]
    return [name for score, name in scored[:3] if score >= CUTOFF and score > best - 0.1]


def describe_validation(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    """A line for every setting that pydantic refused; ``origins`` tells where settings were set."""
    lines: dict[str, str] = {}
    for details in error.errors(include_url=False):
        key = _dotted(details["loc"])
        lines.setdefault(key or details["msg"], _validation_line(key, details, origins))
    return list(lines.values())


def _similarity(key: str, leaf: str, name: str) -> float:
    whole = difflib.SequenceMatcher(None, key.lower(), name).ratio()
    last = difflib.SequenceMatcher(None, leaf.lower(), name.rpartition(".")[2]).ratio()
    # A shade less than the whole path, so that of two equal last names the one in the same section comes first.
    return max(whole, 0.9 * last)


def _unknown_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    known = {setting.key for setting in settings()}
    unknown: list[str] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if f"{key}.NAME" in {setting.rpartition(".")[0] for setting in known} and isinstance(value, Mapping):
            unknown += _unknown_in_named(value, key)
            continue
        holds_settings = is_section(key) or any(setting.startswith(f"{key}.") for setting in known)
        if holds_settings and isinstance(value, Mapping):
            unknown += _unknown_keys(value, f"{key}.")
        elif is_section(key):
            continue  # not a group of settings: told when the configuration is built
        elif key not in known:
            unknown.append(key)
    return unknown


def _unknown_in_named(named: Mapping[str, Any], key: str) -> list[str]:
    """The same within a mapping of sections, each under a name of the user's."""
    keys = [f"{key}.{name}.{inner}" for name, value in named.items() if isinstance(value, Mapping) for inner in value]
    return [inner for inner in keys if setting_at(inner) is None]


def _unknown_line(key: str, where: str) -> str:
    likely = nearest(key)
    if likely:
        return f"{key} ({where}): there is no such setting; did you mean {' or '.join(likely)}?"
    section = key.partition(".")[0]
    inside = [setting.key for setting in settings() if setting.key.startswith(f"{section}.")]
    choices = inside if "." in key and inside else list(sections())
    return f"{key} ({where}): there is no such setting; choose among {', '.join(choices)}."


def _dotted(location: tuple[int | str, ...]) -> str:
    """``('evaluation', 'configurations', 0)`` as ``evaluation.configurations[0]``, pydantic's union tags left out."""
    known = {setting.key: setting for setting in settings()}
    key, setting = "", None
    for step in location:
        if setting is None:
            key = f"{key}.{step}" if key else str(step)
            setting = known.get(key)
        elif isinstance(step, int):
            key += f"[{step}]"
        elif "mapping" in setting.kind and key == setting.key:
            key += f".{step}"
        elif (
            inner := setting_at(f"{key}.{step}")
        ) is not None and inner != setting:  # of a section in a mapping or list
            key, setting = f"{key}.{step}", inner
    return key


def _validation_line(key: str, details: ErrorDetails, origins: Mapping[str, str]) -> str:
    kind, given = details["type"], details["input"]
    setting = setting_at(key)
    if kind == "value_error":  # one of our own checks, which already says what was given, what must hold, what to do
        return str(details["ctx"]["error"]) if "ctx" in details else details["msg"]
    if kind == "missing":
        return _missing_line(key, setting)
    if setting is None:
        inside = ", ".join(settings_within(key))
        given_this = f"{key}: {plain(given)} was given"
        return f"{given_this}; a section must hold settings; write {key}.NAME=VALUE, NAME one of {inside}."
    where = origins.get(setting.key)
    must = details["msg"].replace("Input should", "it should").replace("it should be", "it must be")
    remedy = f"Give {setting.kind}, such as {key}={setting.default}" if key == setting.key else f"Give {setting.kind}"
    if kind == "string_type" and given is not None:
        remedy = f"Quote it: {key}='\"{plain(given)}\"'"
    doc = f" ({setting.doc.rstrip('.')})" if setting.doc else ""
    return f"{key}: {plain(given)} was given{f' ({where})' if where else ''}; {must}. {remedy}.{doc}"


def _missing_line(key: str, setting: Setting | None) -> str:
    if setting is None:  # a whole section is missing: name what it must hold
        needed = [one for one in settings() if one.key.startswith(f"{key}.") and one.default.startswith("(")]
        return " ".join(_missing_line(one.key, one) for one in needed)
    doc = f" ({setting.doc.rstrip('.')})" if setting.doc else ""
    return f"{key}: nothing was given; it must be set: {setting.kind}{doc}. Add it to the recipe, or pass {key}=VALUE."

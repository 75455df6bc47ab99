"""The configuration tree, read as a flat list of settings: for ``--explain``, for error messages, for nearest names."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pacore_rl.config import Config

REQUIRED = "(must be given)"
_REPEATED: dict[Any, str] = {dict: ".NAME", tuple: "[i]"}
"""How keys within a mapping or a list of sections are written."""
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One leaf of the configuration tree."""

    key: str
    """Dotted path, e.g. ``ppo.clip_range``; in a mapping of sections ``NAME`` stands for the user's name, in a list
    ``[i]`` for the index: ``curation.sources.NAME.path``."""
    kind: str
    """What it accepts, in words: ``integer > 0``, ``auto | cpu | cuda``."""
    default: str
    """The default as YAML writes it, or ``(must be given)``."""
    doc: str
    """The field's description; empty where its name says all."""


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting of a run, in the order of the configuration tree."""
    return tuple(_walk(Config, ""))


def sections(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, str]:
    """The sections of the tree, those within others too (``reward.judge``), and what each is about."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if _is_model(field.annotation):
            found[f"{prefix}{name}"] = (field.annotation.__doc__ or "").strip()
            found |= sections(field.annotation, f"{prefix}{name}.")
    return found


def values_of(config: Config) -> dict[str, Any]:
    """The value of every setting by its key; those in a section that is null, in mappings and lists left out."""
    found: dict[str, Any] = {}
    for setting in settings():
        if any(mark in setting.key for mark in _REPEATED.values()):
            continue  # shown as part of what holds them
        value: Any = config
        for name in setting.key.split("."):
            value = None if value is None else getattr(value, name)
        inside_null = any(found.get(outer, "") is None for outer in _outer_keys(setting.key))
        if not inside_null:
            found[setting.key] = value
    return found


def _outer_keys(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def is_section(key: str) -> bool:
    """Whether ``key`` names a group of settings, not a setting."""
    return key in sections()


def setting_at(key: str) -> Setting | None:
    """The setting that a key of a recipe sets, or lies within: ``curation.sources.dapo.path``, ``ppo.clip_range``."""
    return next((one for one in settings() if _pattern(one.key).match(key)), None)


def settings_within(key: str) -> list[str]:
    """Names of the settings of a section, wherever it stands: ``curation.sources.dapo`` has path, licence, ..."""
    depth = key.count(".") + 1
    heads = [(one.key.split("."), one) for one in settings() if one.key.count(".") >= depth]
    return [".".join(parts[depth:]) for parts, _ in heads if _pattern(".".join(parts[:depth])).match(key)]


@cache
def _pattern(key: str) -> re.Pattern[str]:
    """Matches the key itself, and, where it holds no settings of its own, whatever is within it."""
    exact = re.escape(key).replace(r"\.NAME", r"\.[^.]+").replace(r"\[i\]", r"\[\d+\]")
    holds_settings = any(one.key.startswith((f"{key}.", f"{key}[")) for one in settings())
    return re.compile(f"{exact}$" if holds_settings else f"{exact}(?:$|[.[])")


def plain(value: Any) -> str:
    """A value as YAML would write it, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(plain(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if _is_model(annotation):
            yield from _walk(annotation, f"{prefix}{name}.")
            continue
        default = REQUIRED if field.is_required() else plain(field.get_default(call_default_factory=True))
        doc = " ".join((field.description or "").split())
        yield Setting(key=f"{prefix}{name}", kind=_kind(field), default=default, doc=doc)
        mark = _REPEATED.get(typing.get_origin(annotation), "")
        for inner in typing.get_args(annotation):
            if _is_model(inner):  # what it holds, where it is given
                yield from _walk(inner, f"{prefix}{name}{mark}.")


def _is_model(annotation: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {plain(getattr(limit, name))}"
        for limit in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]
    return " ".join([_words(field.annotation), ", ".join(bounds)]).strip()


def _words(annotation: Any) -> str:
    simple = {int: "integer", float: "number", str: "text", bool: "true | false", Path: "path", type(None): "null"}
    if annotation in simple:
        return simple[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(str(choice) for choice in inner)
    if origin is typing.Annotated:
        return _words(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_words(choice) for choice in inner)
    if origin is tuple:
        return f"list of {_words(inner[0])}" if Ellipsis in inner else f"[{', '.join(_words(item) for item in inner)}]"
    if origin is dict:
        return "mapping"
    return getattr(annotation, "__name__", str(annotation))

"""Recipes: YAML files that become a ``Config``.

    recipes/base.yaml  <-  recipes/pacore_8b/stage1.yaml  <-  KEY=VALUE on the command line

A recipe holds its differences from the recipe that it ``extends:`` (a path relative to the recipe itself). Sections
merge key by key; a list, a number or a text replaces what was there. ``KEY=VALUE`` overrides come last, their values
read as YAML. Every other relative path in a recipe (``data.pool``, ``run.output_dir``, a local ``model.path``) is
relative to the current directory, so that one recipe serves many working folders. ``${oc.env:NAME}`` reads an
environment variable. ``reward: package.module:function`` is short for ``reward.custom.name``.

Whatever is wrong with a recipe is raised as one ``RecipeError`` whose message is a screen to be shown as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from pacore_rl import __version__
from pacore_rl.config import Config
from pacore_rl.config_secrets import check_no_secrets
from pacore_rl.recipe_errors import RecipeError, describe_unknown, describe_validation
from pacore_rl.settings import is_section, settings

__all__ = ["RecipeError", "load_config", "origins", "resolved_yaml"]

EXTENDS = "extends"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One origin of settings: a recipe file, or one override."""

    label: str
    values: dict[str, Any]
    lines: Mapping[str, int]
    """Line in the file of each dotted key; empty for an override."""

    def where(self, key: str) -> str:
        line = self.lines.get(key)
        return self.label if line is None else f"{self.label}, line {line}"


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the recipe at ``path``, what it extends, and ``KEY=VALUE`` overrides, into a checked configuration.

    Raises ``RecipeError`` for a missing or unparsable file, a circle of ``extends:``, an unknown key, a bad value, and
    ``ValueError`` for a secret among the settings (``config_secrets``).
    """
    # Before anything quotes an override in a message.
    check_no_secrets({f"The override {text.partition('=')[0]}": text for text in overrides}, os.environ)
    sources = _sources(path, overrides)
    merged = _merge(sources, path)
    check_no_secrets(merged, os.environ)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        found = _origins(sources)
        raise RecipeError(_screen(path, describe_validation(error, found))) from error


def origins(path: Path, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Where each setting that the recipe or an override touches was last set, e.g. ``recipes/base.yaml, line 3``."""
    return _origins(_sources(path, overrides))


def resolved_yaml(config: Config) -> str:
    """The whole configuration as a recipe that extends nothing: stored with a run, it repeats the run."""
    body = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return f"# Every setting of this run, as resolved by pacore-rl {__version__}; itself a recipe.\n{body}"


def _sources(path: Path, overrides: Sequence[str]) -> list[_Source]:
    """Base first, overrides last, none with a key that the configuration does not know."""
    sources = [*_read_chain(path), *(_read_override(text) for text in overrides)]
    unknown = [line for source in sources for line in describe_unknown(source.values, source.where)]
    if unknown:
        raise RecipeError(_screen(path, unknown))
    return sources


def _read_chain(path: Path) -> list[_Source]:
    chain: list[_Source] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        if following.resolve() in [earlier.resolve() for earlier in seen]:
            circle = " -> ".join(str(step) for step in [*seen, following])
            raise RecipeError(f"The `extends:` of these recipes run in a circle: {circle}. Remove one of them.")
        source = _read_file(following, extended_by=seen[-1] if seen else None)
        seen.append(following)
        parent = source.values.pop(EXTENDS, None)
        if parent is not None and not isinstance(parent, str):
            raise RecipeError(
                f"{source.where(EXTENDS)}: extends: {parent!r} was given; it must be one path, relative to the recipe "
                "such as `extends: base.yaml`."
            )
        chain.append(source)
        following = None if parent is None else _beside(following, parent)
    return chain[::-1]


def _beside(path: Path, parent: str) -> Path:
    """``parent`` as seen from the recipe at ``path``."""
    return path.parent / Path(parent).expanduser()


def _read_file(path: Path, *, extended_by: Path | None) -> _Source:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(_unreadable(path, error, extended_by)) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file in UTF-8 ({error.reason}); give a recipe in YAML.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise RecipeError(
                f"{path} holds a {root.id}, not settings; a recipe must be lines of `key: value`, such as "
                "`extends: base.yaml` and `trainer: {steps: 10}`."
            )
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {_yaml_problem(error, text)}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path} cannot be read: {error}; mend the ${{...}} in it.") from error
    assert isinstance(values, dict)
    lines = {} if root is None else _line_numbers(root)
    if isinstance(values.get("reward"), str):
        lines["reward.custom.name"] = lines["reward"]
    return _Source(label=str(path), values=_textual(_with_reward(values)), lines=lines)


def _unreadable(path: Path, error: OSError, extended_by: Path | None) -> str:
    because = f" It is what {extended_by} extends (`extends:` is relative to that recipe)." if extended_by else ""
    folder = path.parent
    near = sorted(str(candidate) for candidate in folder.glob("*.yaml")) if folder.is_dir() else []
    remedy = (
        f"Recipes in that folder: {', '.join(near[:8])}."
        if near
        else "Give the path of a recipe, such as recipes/base.yaml."
    )
    return f"The recipe {path} cannot be read: {error.strerror}.{because} {remedy}"


def _yaml_problem(error: yaml.YAMLError, text: str) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    line = (text.splitlines() or [""])[min(mark.line, len(text.splitlines()) - 1)]
    told = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}."
    return f"{told} Mend the line, or quote a value that holds special signs:\n    {line}"


def _line_numbers(root: yaml.Node, prefix: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = key.start_mark.line + 1
            lines.update(_line_numbers(value, f"{dotted}."))
    return lines


def _read_override(text: str) -> _Source:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"The override {text!r} was given; it must read KEY=VALUE, without spaces, such as trainer.steps=10."
        )
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist([f"{key.strip().lstrip('-')}={value}"]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(
            f"The value of the override {text!r} is not YAML; write numbers as they are, lists as [4, 16], "
            "and quote what holds special signs."
        ) from error
    assert isinstance(values, dict)
    if EXTENDS in values:
        raise RecipeError(
            f"The override {text!r} was given; `extends` belongs in a recipe file: write one that extends another."
        )
    return _Source(label=f"command line, {text}", values=_textual(_with_reward(values)), lines={})


def _with_reward(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A reward given as a text names the user's own function; the section's other settings stay as they are."""
    reward = values.get("reward")
    return {**values, "reward": {"custom": {"name": reward}}} if isinstance(reward, str) else values


def _textual(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The same tree with text keys, and without empty sections (``trainer:`` and nothing under it)."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if value is None and is_section(dotted):
            continue
        tree[str(key)] = _textual(value, f"{dotted}.") if isinstance(value, Mapping) else value
    return tree


def _merge(sources: Sequence[_Source], path: Path) -> dict[str, Any]:
    try:
        merged = OmegaConf.merge(*(OmegaConf.create(source.values) for source in sources))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        summary = str(error).splitlines()[0]
        raise RecipeError(
            _screen(path, [f"{key}: {summary}; set it to a plain value, or define what it refers to."])
        ) from error
    assert isinstance(values, dict)
    return _textual(values)


def _origins(sources: Sequence[_Source]) -> dict[str, str]:
    known = {setting.key for setting in settings()}
    found: dict[str, str] = {}
    for source in sources:
        for key in _flat(source.values):
            top = key if key in known else next((name for name in known if key.startswith(f"{name}.")), key)
            found[top] = source.where(top)
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in values.items():
        nested = isinstance(value, Mapping) and value
        keys += _flat(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return keys


def _screen(path: Path, lines: Sequence[str]) -> str:
    shown = [f"  - {line}" for line in lines[:12]]
    if len(lines) > len(shown):
        shown.append(f"  ... and {len(lines) - len(shown)} more of the kind; mend these first.")
    return "\n".join([f"{path} does not make a run:", *shown, "`pacore-rl train --explain` lists every setting."])

"""The folder of an evaluation on benchmarks.

    benchmarks.json         model, settings and problems: what tables and figures need beside the records
    pools/NAME.jsonl        solo answers, a message pool: round 1 is drawn from it, votes are counted on it
    answers/NAME.jsonl      every run of every condition (``answer_records``)
    equivalence/NAME.jsonl  which answers of a problem are the same (``equivalence``)

An evaluation that is started again on its folder goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pacore_rl.config_evaluation import BenchmarksConfig
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.jsonl import LineFile, whole_lines

SCHEMA_VERSION = 1
MANIFEST = "benchmarks.json"
_FIXED = ("model", "compaction", "end_of_reasoning", "temperature", "top_p", "max_response_tokens")


_CHECKPOINT = re.compile(r"(?P<run>[^/]+)/checkpoints/step_(?P<step>\d+)(/actor)?/?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSet:
    """One benchmark of an evaluation."""

    title: str
    source: str
    reward: str
    samples_per_problem: int
    problem_ids: tuple[str, ...]
    fingerprints: dict[str, str] = field(default_factory=dict[str, str])
    """Of each problem (``Problem.fingerprint``), by id; {} in folders of before they were noted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was evaluated, and how."""

    model_path: str
    model: str
    """Fingerprint of the weights, or the endpoint's name of the model."""
    compaction: str
    end_of_reasoning: str
    temperature: float
    top_p: float
    max_response_tokens: int
    settings: BenchmarksConfig
    sets: dict[str, BenchmarkSet]

    @property
    def shown_model(self) -> str:
        """The model as tables call it: of a run's checkpoint the run and the step, else the end of its path."""
        checkpoint = _CHECKPOINT.search(self.model_path)
        if checkpoint is None:
            return Path(self.model_path).name
        return f"{checkpoint['run']} at step {int(checkpoint['step'])}"


@dataclass(frozen=True, slots=True)
class BenchmarkFolder:
    """Where the files of an evaluation lie."""

    path: Path

    def pool(self, name: str) -> Path:
        return self.path / "pools" / f"{name}.jsonl"

    def answers(self, name: str) -> Path:
        return self.path / "answers" / f"{name}.jsonl"

    def equivalence(self, name: str) -> Path:
        return self.path / "equivalence" / f"{name}.jsonl"

    def open(self, manifest: Manifest) -> None:
        """Write the manifest, or check that the folder's own agrees with it.

        Raises:
            ValueError: the folder holds an evaluation of another model, other sampling or other problems.
        """
        path = self.path / MANIFEST
        sets = manifest.sets
        if path.exists():
            earlier = self.manifest()
            sets = {**earlier.sets, **manifest.sets}
            now, before = ({name: getattr(m, name) for name in _FIXED} for m in (manifest, earlier))
            now["seed"], before["seed"] = manifest.settings.seed, earlier.settings.seed
            now["instruction"], before["instruction"] = manifest.settings.instruction, earlier.settings.instruction
            differing = [name for name in now if now[name] != before[name]]
            if differing:
                listing = ", ".join(f"{name}: {before[name]!r} there, {now[name]!r} now" for name in differing)
                raise ValueError(
                    f"{self.path} holds another evaluation ({listing}); nothing was changed. Give this one a folder of "
                    "its own with --out."
                )
            for name in earlier.sets.keys() & manifest.sets.keys():
                known, asked = earlier.sets[name].fingerprints, manifest.sets[name].fingerprints
                self._require_same_problems(name, known, asked)
                sets[name] = replace(sets[name], fingerprints={**known, **asked})
        record = {
            "schema_version": SCHEMA_VERSION,
            **_ADAPTER.dump_python(manifest, mode="json"),
            "sets": {name: _SET.dump_python(one, mode="json") for name, one in sets.items()},
        }
        text = json.dumps(record, ensure_ascii=False, indent=1).encode()
        write_atomically(path, lambda file: file.write(text))

    def _require_same_problems(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Records are kept by the problem's id: it must still mean the same."""
        changed = [problem_id for problem_id in now if before.get(problem_id, now[problem_id]) != now[problem_id]]
        if changed:
            listing = ", ".join(map(repr, changed[:3])) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise ValueError(
                f"{self.path} holds another evaluation ({name}: the question, answer or reward of {listing} is not "
                "what it was); nothing was changed. Give this one a folder of its own with --out."
            )

    def manifest(self) -> Manifest:
        """Raises ValueError where the folder holds no evaluation that this program reads."""
        path = self.path / MANIFEST
        try:
            fields: Any = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema version {version!r}, this program reads {SCHEMA_VERSION}")
            return _ADAPTER.validate_python(fields)
        except (OSError, AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.path} holds no evaluation on benchmarks ({reason}); make one with `pacore-rl evaluate RECIPE "
                f"--benchmark NAME --out {self.path}`."
            ) from error

    def read_equivalence(self, name: str) -> dict[str, dict[str, str]]:
        """Problem -> answer -> the answer that stands for it; {} before it was found out."""
        path = self.equivalence(name)
        records = [json.loads(line) for line in whole_lines(path)] if path.exists() else []
        return {record["problem_id"]: record["stands_for"] for record in records}

    def append_equivalence(self, name: str, problem_id: str, stands_for: dict[str, str]) -> None:
        """Note what was found out for one problem; a later note of it stands."""
        file = LineFile(self.equivalence(name))
        file.append({"schema_version": SCHEMA_VERSION, "problem_id": problem_id, "stands_for": stands_for})
        file.close()


_ADAPTER = TypeAdapter(Manifest)
_SET = TypeAdapter(BenchmarkSet)

"""Settings of curation (paper, Appendix C): where problems come from and what they must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pacore_rl.config_base import Count, Positive, Section, Share
from pacore_rl.config_endpoints import CodeCurationConfig, JudgeFilterConfig, PoolsConfig


class SourceConfig(Section):
    """One source of problems, by its name in ``curation.sources``."""

    path: str
    """A file (.jsonl, .jsonl.gz, .json, .parquet), a folder that datasets.load_dataset reads, or a hub id."""
    licence: str = Field(min_length=1)
    """As the card states it; write "unknown" where it is."""
    split: str = "train"
    """Split of a folder or a hub id."""
    subset: str | None = None
    """Configuration of a hub id."""
    reward: str | None = None
    """Overrides the reward of its records (math, code, judge, package.module:function)."""
    columns: dict[str, str] = Field(default_factory=dict[str, str])
    """Names of its columns where they are not ours: {problem: question, answer: final_answer}."""
    strip_prefix: str = ""
    """Text that the source puts in front of every question, such as how to write the answer; it is removed."""
    strip_suffix: str = ""
    """The same, behind every question."""
    contest: str = ""
    """The contest of all its problems, where its records do not say."""
    limit: Positive | None = None
    """Reads so many records, from the first on; null: all."""


class ArithmeticConfig(Section):
    """Synthetic large-integer arithmetic (Appendix C.1)."""

    num: Count = 0
    """Problems to make; Table 7 has 13,400."""
    low: Count = 10**11
    """Smallest A and B."""
    high: Positive = 10**13
    """Largest A and B."""
    operations: tuple[Literal["add", "subtract", "multiply", "power_mod"], ...] = (
        "add",
        "subtract",
        "multiply",
        "power_mod",
    )
    """Which of them."""
    num_chain_sums: Count = 0
    """Chain sums to make beside them: the small variant, within reach of the quickstart's model."""
    chain_numbers: tuple[Positive, Positive] = (5, 7)
    """Fewest and most numbers of a chain, between 2 and 12."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        fewest, most = self.chain_numbers
        if not 2 <= fewest <= most <= 12:
            raise ValueError(
                f"curation.arithmetic.chain_numbers=[{fewest}, {most}]: 2 <= fewest <= most <= 12 must hold."
            )
        if 2 * self.num_chain_sums > sum(9**num for num in range(fewest, most + 1)):
            raise ValueError(
                f"curation.arithmetic.num_chain_sums={self.num_chain_sums} different chains of {fewest} to {most} "
                "numbers are too many; raise the most."
            )
        return self


class RulesConfig(Section):
    """Quality rules on statements and answers (Appendix C)."""

    off: tuple[str, ...] = ()
    """Rules that are left out, by name (`pacore-rl curate problems --help` lists them)."""
    min_characters: Count = 10
    """Shorter statements are dropped."""
    max_characters: Positive = 20_000
    """Longer statements are dropped."""
    near_duplicate_similarity: Share = 0.85
    """Statements whose word 3-grams have at least this Jaccard similarity are one problem; 1: exact copies only."""
    labelled_data: Path | None = None
    """Folder of the problem files that data_curation/labels/rules.jsonl labels; the card then measures the rules."""


class HeldOutContest(Section):
    """A contest that is kept for evaluation."""

    name: str = Field(min_length=1)
    """As it appears in a problem's contest, source or id, in any case: AIME."""
    years: tuple[int, ...] = ()
    """Which of its years; empty: all."""


class DecontaminationConfig(Section):
    """What training problems are kept apart from (Appendix C)."""

    against: tuple[Path, ...] = ()
    """Evaluation files."""
    ngram_words: Positive = 64
    """A training problem that shares so many words in a row with an evaluation problem is dropped."""
    held_out_contests: tuple[HeldOutContest, ...] = ()
    """Contests that are dropped whole."""


class StagesConfig(Section):
    """Thresholds of the training stages (section 3.1)."""

    stage1_upper: float = Field(default=9 / 24, gt=0, le=1)
    """Stage 1 keeps 0 < message accuracy < this."""
    stage1_upper_code: float = Field(default=15 / 24, gt=0, le=1)
    """The same for code."""
    min_messages: Positive = 1
    """Problems with fewer scored messages count as not measured."""


class CurationConfig(Section):
    """From raw problems to the training stages: what ``pacore-rl curate`` does."""

    output_dir: Path = Path("runs/curation")
    """Everything is written into it: problems, pools, stages, card."""
    sources: dict[str, SourceConfig] = Field(default_factory=dict[str, SourceConfig])
    """By name; where two sources have the same problem, the first keeps it."""
    arithmetic: ArithmeticConfig = ArithmeticConfig()
    rules: RulesConfig = RulesConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    judge: JudgeFilterConfig = JudgeFilterConfig()
    code: CodeCurationConfig = CodeCurationConfig()
    pools: PoolsConfig = PoolsConfig()
    stages: StagesConfig = StagesConfig()
    records_per_part: Positive = 5000
    """Records that are read, checked and written together; an interrupted run loses at most one part of a step."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rules.min_characters > self.rules.max_characters:
            raise ValueError(
                f"curation.rules.min_characters={self.rules.min_characters} exceeds "
                f"curation.rules.max_characters={self.rules.max_characters}; lower the first or raise the second."
            )
        return self

"""PaCoRe in miniature, on one machine without a GPU: everything that a cluster run does, in under twenty minutes.

    problems -> pools -> stage 1 -> PPO -> stage 2 -> PPO, with an evaluation before and after

One that was cut off is gone on with by the same command: pools and evaluations that are on the disk are kept, and
training continues from its last checkpoint.

The task is built so that one trajectory cannot solve it (``data_curation.chain_sums``): a reply holds three
additions, chains have five to seven numbers. A reply finishes one reliably only by going on from what another
trajectory has found. The base model (``recipes/tiny_base``) sometimes goes on from a reference, but was never shown a
chain finished that way; PPO has to find out that it pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from pacore_rl.checkpoints.manifest import Checkpoint
from pacore_rl.config import Config
from pacore_rl.engine.cluster import open_engine
from pacore_rl.engine.scoring import open_run_scorer
from pacore_rl.problems import write_atomically
from pacore_rl.quickstart.phases import PLANS, Quickstart
from pacore_rl.recipes import load_config, resolved_yaml
from pacore_rl.reporting.terminal import console
from pacore_rl.resuming import go_back_to, latest, say
from pacore_rl.run_lock import run_lock
from pacore_rl.runs import open_sinks, prepare_run_dir
from pacore_rl.tokenizer import load_tokenizer

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NOT_OVERRIDDEN = {
    "run.name": "--out names its folder",
    "run.output_dir": "--out names its folder",
    "run.seed": "--seed sets it",
    "trainer.steps": "--preset says how long each of the two stages is",
    "data": "it makes its own problems and pools; `pacore-rl train` trains on yours",
}
"""Settings that follow from its options, and what to use in their place."""


def run(
    *, out: Path = Path("runs/quickstart"), seed: int = 0, preset: str = "quick", overrides: Sequence[str] = ()
) -> Path:
    """The whole quickstart, or the rest of one that was cut off; returns its folder.

    Raises:
        ValueError: an unknown preset, a setting that is not for overrides, or a folder that holds another run.
    """
    if preset not in PLANS:
        raise ValueError(f"preset {preset!r} is unknown; choose one of {', '.join(PLANS)}.")
    config = configuration(out, seed=seed, overrides=overrides)
    if (config.run_dir / "summary.json").exists():
        console.print(
            f"{config.run_dir} holds a finished quickstart: here is its table. Another --out makes a new one.\n"
        )
        console.print((config.run_dir / "table.md").read_text(), markup=False, soft_wrap=True)
        return config.run_dir
    with run_lock(config.run_dir):
        run_phases(config, preset)
    return config.run_dir


def configuration(out: Path, *, seed: int, overrides: Sequence[str]) -> Config:
    """Its recipe, with what follows from its options.

    Raises:
        ValueError: an override of that.
    """
    # The shipped model is found from any current directory; an override still wins, because it comes later.
    settings = [f"model.path={RECIPES / 'tiny_base'}", f"run.seed={seed}"]
    settings += [f"run.output_dir={out.parent}", f"run.name='{out.name}'"]
    files = {
        "problems": "stage1",
        "pool": "train_pool",
        "held_out_problems": "held_out",
        "held_out_pool": "held_out_pool",
    }
    settings += [f"data.{key}={out}/data/{file}.jsonl" for key, file in files.items()]
    own, config = (load_config(RECIPES / "quickstart.yaml", given) for given in (settings, [*settings, *overrides]))
    for key, remedy in NOT_OVERRIDDEN.items():
        if attrgetter(key)(own) != attrgetter(key)(config):
            raise ValueError(f"{key} is not for a quickstart's overrides: {remedy}.")
    return config


def run_phases(config: Config, preset: str) -> None:
    plan = PLANS[preset]
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    goes_on, start = take_up(config, preset)
    console.print(f"[bold]PaCoRe-RL quickstart[/] seed {config.run.seed}, writing to {config.run_dir}")
    console.print("  starting Ray, vLLM and DeepSpeed (about half a minute)")
    total_steps = plan.stage1_steps + plan.stage2_steps
    with (
        open_sinks(config, total_steps=total_steps) as sinks,
        open_engine(config) as engine,
        open_run_scorer(config, ()) as scorer,  # whose rewards need nothing of a node
    ):
        Quickstart(
            config=config,
            plan=plan,
            engine=engine,
            scorer=scorer,
            tokenizer=tokenizer,
            sinks=sinks,
            goes_on=goes_on,
            start=start,
        ).run()


def take_up(config: Config, preset: str) -> tuple[bool, Checkpoint | None]:
    """The run folder, made; whether an unfinished quickstart is in it; and its last checkpoint, the journals cut back.

    Raises:
        ValueError: the folder holds a run of other settings, or of another kind.
    """
    marker = config.run_dir / "quickstart.txt"
    settings = f"preset: {preset}\n{resolved_yaml(config)}"
    if marker.exists() and marker.read_text() != settings:
        raise ValueError(
            f"{config.run_dir} holds an unfinished quickstart of other settings ({marker.name}); go on with it by the "
            "command that began it, or give this one another folder (--out)."
        )
    goes_on = marker.exists()
    prepare_run_dir(config, goes_on=goes_on)
    write_atomically(marker, lambda file: file.write(settings.encode()))
    if not goes_on:
        return False, None
    say("going on with what is in the folder")
    checkpoint = latest(config)
    go_back_to(config, checkpoint)
    return True, checkpoint

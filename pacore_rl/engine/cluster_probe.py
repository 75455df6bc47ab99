"""What a Ray cluster offers: nodes, CPUs and GPUs, as one line of JSON.

    python -m pacore_rl.engine.cluster_probe ADDRESS

``pacore-rl doctor --address`` runs it in a session of its own, which it can stop.
"""

from __future__ import annotations

import json
import logging
import sys


def main() -> None:
    """Join as a driver, look, leave."""
    import ray

    from pacore_rl.engine.address import join

    join(sys.argv[1], logging_level=logging.ERROR)
    all_of_it, free = ray.cluster_resources(), ray.available_resources()
    told = {
        "nodes": sum(bool(node["Alive"]) for node in ray.nodes()),
        "cpu": all_of_it.get("CPU", 0.0),
        "cpu_free": free.get("CPU", 0.0),
        "gpu": all_of_it.get("GPU", 0.0),
        "gpu_free": free.get("GPU", 0.0),
    }
    ray.shutdown()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

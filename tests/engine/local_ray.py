"""A Ray of a test module's own, without a dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

OBJECT_STORE_BYTES = 256 * 1024**2


@contextmanager
def local_ray(namespace: str, *, num_cpus: int, log_to_driver: bool = False) -> Iterator[None]:
    """Shut down at the end, whatever happens: what is left of it would be the next module's."""
    ray.init(
        address="local",
        namespace=namespace,
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=log_to_driver,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()

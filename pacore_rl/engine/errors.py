"""Failures that have a name. This module loads nothing, so that the command line may know them."""


class WorkerDied(RuntimeError):
    """A worker's process is gone, most often for want of memory; the message says whose it was and what to change."""

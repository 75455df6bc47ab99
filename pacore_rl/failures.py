"""Failures that have a name: their messages are for the user, and the command line shows them without a traceback.

This module loads nothing.
"""


class RunStopped(RuntimeError):
    """A run that cannot go on, for a reason outside the code: a limit of the recipe, the data, a step's numbers."""


class WorkerDied(RunStopped):
    """A worker's process is gone, most often for want of memory; the message says whose it was and what to change."""

"""Checkpoints: what a run must remember to go on as if it had never stopped, and how that gets onto the disk whole."""

"""The terminal. One console for everything: two live displays on two consoles would overwrite each other."""

from rich.console import Console

console = Console()

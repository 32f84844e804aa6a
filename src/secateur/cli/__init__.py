"""The `secateur` command."""

from secateur.cli.app import app, main

__all__ = ["app", "main"]

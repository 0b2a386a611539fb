"""How the commands for a cluster end and what they print as JSON: one form for all."""

from __future__ import annotations

import json

import click

from sidegate.cli.recordings import CommandFailure
from sidegate_cluster.pages.refusals import CallError, told


def failure(error: CallError) -> CommandFailure:
    """What the API server said, as the command's own failure."""
    words = told(error)
    return CommandFailure(words.problem, words.way_forward)


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2))  # ASCII alone: no text of others steers the terminal

"""What a tour shows, and how it sees that a step brought what it must."""

from __future__ import annotations

import sys

BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class TourError(Exception):
    """A step didn't bring what it must."""


def heading(text: str) -> None:
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def show(command: str, output: str) -> None:
    print(f"{BOLD}$ {command}{PLAIN}")
    for line in output.rstrip("\n").splitlines():
        print(f"  {line}")
    sys.stdout.flush()


def expect(output: str, *wanted: str, absent: tuple[str, ...] = ()) -> None:
    for text in wanted:
        if text not in output:
            raise TourError(f"expected {text!r} in:\n{output}")
    for text in absent:
        if text in output:
            raise TourError(f"{text!r} must not be in:\n{output}")

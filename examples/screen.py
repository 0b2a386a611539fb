"""What a tour shows, how it sees that a step brought what it must, and a psql whose statement is held."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

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


@contextmanager
def held(
    command: Sequence[str], typed: str, sql: str, wait_s: float, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Callable[[], str]]]:
    """A psql of its own, with `typed` as its input, once `sql` is held: the request's name, and what waits for the end and shows it."""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout
        try:
            process.stdin.write(typed)
            process.stdin.close()
            lines: list[str] = []
            name = None
            for line in said:
                lines.append(line)
                name = re.search(r"approval request (ar-[-a-z0-9]+)", line)
                if name is not None:
                    break
            if name is None:
                raise TourError("the statement was not held:\n" + "".join(lines))
            typed_lines = "\n  shop=> ".join(sql.splitlines())
            show(f"psql ...   # as ada, in another terminal: it waits\n  shop=> {typed_lines}", "".join(lines))

            def finish() -> str:
                rest = said.read()
                process.wait(wait_s)
                show("# the other terminal again", rest)
                return "".join(lines) + rest

            yield name[1], finish
        finally:
            process.kill()

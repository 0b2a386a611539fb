"""Rewrites DataRow frames by a plan: the hot path of masking. Plain typed Python that mypyc compiles (`make compile`).

Input is a run of whole DataRow frames: `D`, an int32 length that counts itself, an int16 column count, then for each column an int32 length
(-1 for NULL) and that many bytes (PostgreSQL documentation, "Message Formats"). Output is the same rows with masked cells; bytes that
need no change are copied in runs.

Rules: lengths must add up exactly and the column count must be the plan's, or nothing of the chunk passes. A run in which the scanner's
prefilter finds nothing, and no column is masked, is passed on without being walked. NULL stays NULL where the plan doesn't hide it.
"""

from __future__ import annotations

from typing import Final

from sidegate.postgres.messages import TargetProtocolError
from sidegate.postgres.results import ResultPlan, wire_cell

_DATA_ROW: Final = 68  # "D"
_MASK: Final = 1  # Action.MASK
_SCAN: Final = 2  # Action.SCAN
_INT8_BINARY: Final = 9  # CellKind.INT8_BINARY
_NULL: Final = 0xFFFFFFFF
_LARGEST: Final = 0x7FFFFFFF

# Ready headers for the usual row lengths: making one takes longer than a row.
_HEADERS: Final[list[bytes]] = [b"D" + length.to_bytes(4, "big") for length in range(2048)]


def _header(length: int) -> bytes:
    if length < 2048:
        return _HEADERS[length]
    return b"D" + length.to_bytes(4, "big")


def rewrite_rows(buffer: bytes, start: int, end: int, plan: ResultPlan) -> bytes:
    """The frames buffer[start:end], masked.

    Raises:
        TargetProtocolError: not whole DataRow frames with the plan's number of columns.
    """
    rows = buffer if start == 0 and end == len(buffer) else buffer[start:end]
    if plan.has_masks:
        rows = _rewrite(rows, plan, False)
    # What was masked is gone from `rows` by now, so only what is left can make the prefilter look closer.
    if plan.has_scans and (plan.has_opaque or plan.scanner.may_contain(rows)):
        rows = _rewrite(rows, plan, True)
    return rows


def _rewrite(buffer: bytes, plan: ResultPlan, is_scan: bool) -> bytes:
    """One pass: with `is_scan` over the SCAN columns, else over the MASK columns."""
    actions: bytes = plan.actions
    columns: int = len(actions)
    kinds: list[int] = [int(kind) for kind in plan.kinds]
    replacements: list[bytes] = [replacement or b"" for replacement in plan.replacements]
    masked: list[int] = [0] * columns
    scanner = plan.scanner
    opaque: bytes = plan.opaque
    hides_null: bytes = plan.hides_null
    view = memoryview(buffer)
    out: list[bytes] = []
    end = len(buffer)
    kept = 0  # everything before it is in `out`
    at = 0
    while at < end:
        if at + 7 > end or buffer[at] != _DATA_ROW:
            raise TargetProtocolError("run of rows doesn't end where its frames do")
        length = (buffer[at + 1] << 24) | (buffer[at + 2] << 16) | (buffer[at + 3] << 8) | buffer[at + 4]
        row_end = at + 1 + length
        if length < 6 or row_end > end:
            raise TargetProtocolError("data row is longer than what was received of it")
        if ((buffer[at + 5] << 8) | buffer[at + 6]) != columns:
            raise TargetProtocolError(f"data row has {(buffer[at + 5] << 8) | buffer[at + 6]} columns, described were {columns}")
        is_hit = is_scan and scanner.may_contain(view[at:row_end])
        slot = -1  # of the row's header in `out`, once something in it changed
        change = 0
        cell = at + 7
        for column in range(columns):
            if cell + 4 > row_end:
                raise TargetProtocolError("data row ends before its last column")
            size = (buffer[cell] << 24) | (buffer[cell + 1] << 16) | (buffer[cell + 2] << 8) | buffer[cell + 3]
            if size == _NULL:
                if is_scan or hides_null[column] == 0:
                    cell += 4
                    continue
                size = 0
            stop = cell + 4 + size
            if size > _LARGEST or stop > row_end:
                raise TargetProtocolError("cell is longer than its data row")
            action = actions[column]
            if action == _MASK and not is_scan:
                replacement = replacements[column]
                if not replacement:
                    replacement = wire_cell(plan.mask(column, buffer[cell + 4 : stop]))
                masked[column] += 1
            elif action == _SCAN and (is_hit or (is_scan and opaque[column] != 0)):
                if kinds[column] == _INT8_BINARY and size == 8 and (buffer[cell + 4] | buffer[cell + 5] | buffer[cell + 6]) == 0:
                    cell = stop  # under 2**40: shorter than any card number
                    continue
                value = buffer[cell + 4 : stop]
                found: bytes | None = plan.scan(column, value)
                if found is value:
                    cell = stop
                    continue
                replacement = wire_cell(found)
            else:
                cell = stop
                continue
            if slot < 0:
                out.append(buffer[kept:at])
                slot = len(out)
                out.append(b"")
                kept = at + 5
            out.append(buffer[kept:cell])
            out.append(replacement)
            kept = stop
            change += len(replacement) - size - 4
            cell = stop
        if cell != row_end:
            raise TargetProtocolError("bytes left over after the last column of a data row")
        if slot >= 0:
            out[slot] = _header(length + change)
        at = row_end
    for column in range(columns):
        if masked[column]:
            plan.count_masked(column, masked[column])
    out.append(buffer[kept:end])
    return b"".join(out)

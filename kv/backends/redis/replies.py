"""The plain answers of a server, read from bytes: of RESP2 and RESP3 alike. Pure."""

from __future__ import annotations

from typing import Any, Final

_BULK: Final = ord("$")
_INTEGER: Final = ord(":")
_SIMPLE: Final = ord("+")
_NULL: Final = ord("_")


def plain(data: bytes, most: int) -> tuple[list[Any], int]:
    """Give the first answers, so many at most, up to one that is not whole or of another kind, and how long they are."""
    answers: list[Any] = []
    start = 0
    find = data.find
    while len(answers) < most and (end := find(b"\r\n", start)) > 0:
        kind = data[start]
        after = end + 2
        if kind == _BULK:
            size = int(data[start + 1 : end])
            if size < 0:
                answers.append(None)
            else:
                after += size + 2
                if after > len(data):
                    break
                answers.append(data[end + 2 : after - 2])
        elif kind == _INTEGER:
            answers.append(int(data[start + 1 : end]))
        elif kind == _SIMPLE:
            answers.append(data[start + 1 : end])
        elif kind == _NULL:
            answers.append(None)
        else:
            break
        start = after
    return answers, start

# SPDX-License-Identifier: Apache-2.0
"""Streams the objects of a JSON file with the line where each starts: one object per line, or one array of objects.

We do not use the reader of ``datasets`` because it loses line numbers, which every error message names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from nemo_mcpo.errors import DataError

_BLOCK = 1 << 20
_HEAD = 1 << 16
_FIX = "write one JSON object per line, or one array of objects, in UTF-8"


def read_json_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line, object)``; lines count from 1."""
    with open(path, "rb") as file:
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    pairs = _array_values(path) if head.startswith(b"[") else _line_values(path)
    for line, value in pairs:
        if not isinstance(value, dict):
            got = type(value).__name__
            raise DataError("not a JSON object", where=f"{path}:{line}", got=got, expected="an object", fix=_FIX)
        yield line, value


def _line_values(path: str) -> Iterator[tuple[int, Any]]:
    # Read as bytes, because text mode also splits lines at a lone "\r", which would shift the line numbers.
    with open(path, "rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                yield line, json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
            except ValueError as error:
                raise _not_json(path, line, raw[:60].decode("utf-8", "replace"), error) from error


def _array_values(path: str) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        text = _SlidingText(path, file)
        text.expect("[")
        if text.peek() != "]":
            yield text.value()
            while text.peek() == ",":
                text.expect(",")
                yield text.value()
        text.expect("]")


class _SlidingText:
    """A window onto a JSON text, so that memory holds about one element at a time."""

    def __init__(self, path: str, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._position, self._line = "", 0, 1
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """Return the next character that is not white space, without consuming it."""
        while True:
            while self._position < len(self._text):
                character = self._text[self._position]
                if character not in " \t\r\n":
                    return character
                self._line += character == "\n"
                self._position += 1
            if not self._extend(_BLOCK):
                raise DataError("the JSON array is not closed", where=f"{self._path}:{self._line}", fix=_FIX)

    def expect(self, character: str) -> None:
        """Consume the next character that is not white space; raise DataError if it is not ``character``."""
        if self.peek() != character:
            got = repr(self._text[self._position : self._position + 40])
            raise DataError("not JSON", where=f"{self._path}:{self._line}", got=got, expected=character, fix=_FIX)
        self._position += 1

    def value(self) -> tuple[int, Any]:
        """Consume the next value, and return it with the line where it starts."""
        self.peek()
        block = _BLOCK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
                break
            except json.JSONDecodeError as error:
                # An error near the end of the window, or an unterminated string, may only mean that more must be
                # read. Doubling the block keeps the cost of a very long element linear.
                may_be_cut = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated")
                line = self._line + self._text.count("\n", self._position, error.pos)
                got = self._text[error.pos : error.pos + 60]
                if not may_be_cut or not self._extend(block):
                    raise _not_json(self._path, line, got, error) from error
                block *= 2
        line = self._line
        self._line += self._text.count("\n", self._position, end)
        self._position = end
        return line, value

    def _extend(self, size: int) -> bool:
        try:
            more = self._file.read(size)
        except UnicodeDecodeError as error:
            raise _not_json(self._path, self._line, "", error) from error
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)


def _not_json(path: str, line: int, text: str, error: ValueError) -> DataError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
    return DataError(f"not JSON: {reason}", where=f"{path}:{line}", got=repr(text), fix=_FIX)

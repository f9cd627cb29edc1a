"""How events are shown: at a terminal, in a pipe, or as JSON."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from wsraw.runtime.printable import printable_lines
from wsraw.tools.connect.channels import Channel, Ended, Message
from wsraw.tools.connect.plan import Plan
from wsraw.tools.connect.screen import Screen

MOST_OF_A_TEXT: Final = 16 << 10
"""Characters of a message that are shown to a person."""
MOST_OF_A_DUMP: Final = 1 << 10
"""Bytes of a message that are shown to a person."""
BYTES_OF_A_ROW: Final = 16
BYTES_OF_A_LINE: Final = 24
"""Bytes up to which a message is shown on one line."""


class Output(Protocol):
    """Shows the events of a connection."""

    def opened(self, plan: Plan, channel: Channel) -> None: ...

    def message(self, message: Message) -> None: ...

    def pong(self, seconds: float) -> None: ...

    def notice(self, text: str) -> None:
        """Show a text for the user of a terminal: help, mistakes."""

    def failed(self, text: str) -> None:
        """Called if there was no connection."""

    def ended(self, ended: Ended) -> None: ...


class Interactive:
    """For a person who types."""

    def __init__(self) -> None:
        self._screen = Screen()

    def opened(self, plan: Plan, channel: Channel) -> None:
        details = f" ({', '.join(channel.details)})" if channel.details else ""
        self.notice(f"connected to {plan.target.shown}{details}; /help shows commands")

    def message(self, message: Message) -> None:
        if message.kind == "binary":
            assert isinstance(message.data, bytes)
            self._screen.show(f"< {dump(message.data)}")
            return
        text = message.data if isinstance(message.data, str) else _decode(message.data)
        if message.kind == "raw":
            text = text.removesuffix("\n").removesuffix("\r").replace("\r\n", "\n")
        more = len(text) - MOST_OF_A_TEXT
        text = printable_lines(text[:MOST_OF_A_TEXT]).replace("\n", "\n  ")
        if more > 0:
            text += f"\n({more} characters more; with --json, or in a pipe, all are shown)"
        self._screen.show(f"< {text}")

    def pong(self, seconds: float) -> None:
        self.notice(f"pong after {1000 * seconds:.1f} ms")

    def notice(self, text: str) -> None:
        self._screen.show(printable_lines(text))

    def failed(self, text: str) -> None:
        pass  # The command shows it.

    def ended(self, ended: Ended) -> None:
        self._screen.end(printable_lines(ended.text))


class Plain:
    """For scripts: stdout has what the peer sends, and nothing else."""

    def __init__(self, *, binary: bool) -> None:
        self._binary = binary
        self._is_terminal = sys.stdout.isatty()

    def opened(self, plan: Plan, channel: Channel) -> None:
        pass

    def message(self, message: Message) -> None:
        data = message.data
        if isinstance(data, str):
            self._line(printable_lines(data) if self._is_terminal else data)
        elif message.kind == "binary" and (self._is_terminal or not self._binary):
            self._line(data.hex(" "))
        elif self._is_terminal:
            sys.stdout.write(printable_lines(_decode(data).replace("\r\n", "\n")))
            sys.stdout.flush()
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _line(self, text: str) -> None:
        if self._is_terminal:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        else:
            # UTF-8 as it came, on Windows too, and without another end of line there.
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
            sys.stdout.buffer.flush()

    def pong(self, seconds: float) -> None:
        self.notice(f"pong after {1000 * seconds:.1f} ms")

    def notice(self, text: str) -> None:
        print(printable_lines(text), file=sys.stderr, flush=True)

    def failed(self, text: str) -> None:
        pass  # The command shows it.

    def ended(self, ended: Ended) -> None:
        if not ended.is_normal:
            self.notice(f"wsraw: {ended.text}")


class Json:
    """For programs: one object a line for each event."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def opened(self, plan: Plan, channel: Channel) -> None:
        found = {"subprotocol": channel.subprotocol} if plan.target.is_websocket else {}
        self._event("open", url=plan.target.shown, details=channel.details, **found)

    def message(self, message: Message) -> None:
        data = message.data
        if isinstance(data, bytes) and message.kind == "raw":
            try:
                data = data.decode()
            except UnicodeDecodeError:
                pass
        shown = {"text": data} if isinstance(data, str) else {"hex": data.hex()}
        self._event("message", kind=message.kind, **shown)

    def pong(self, seconds: float) -> None:
        self._event("pong", latency=round(seconds, 6))

    def notice(self, text: str) -> None:
        self._event("notice", message=text)

    def failed(self, text: str) -> None:
        self._event("error", message=text)

    def ended(self, ended: Ended) -> None:
        found = {"code": ended.code, "reason": ended.reason} if ended.code is not None else {}
        self._event("close", by=ended.by, **found, message=ended.text)

    def _event(self, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        since = round(time.monotonic() - self._begin, 4)
        # As ASCII: a program reads it whatever the encoding of stdout is.
        line = json.dumps({"event": event, "time": now, "seconds": since, **fields})
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def dump(data: bytes) -> str:
    """Bytes for a person: a short message in one line, others in rows with their characters."""
    size = f"{len(data)} byte{'' if len(data) == 1 else 's'}"
    if len(data) <= BYTES_OF_A_LINE:
        return f"binary, {size}: {data.hex(' ')}" if data else f"binary, {size}"
    shown = data[:MOST_OF_A_DUMP]
    lines = [f"binary, {size}"]
    for start in range(0, len(shown), BYTES_OF_A_ROW):
        row = shown[start : start + BYTES_OF_A_ROW]
        chars = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"  {start:06x}  {row.hex(' '):{3 * BYTES_OF_A_ROW - 1}}  {chars}")
    if len(data) > len(shown):
        lines.append(f"  ({len(data) - len(shown)} bytes more; with --json all are shown)")
    return "\n".join(lines)

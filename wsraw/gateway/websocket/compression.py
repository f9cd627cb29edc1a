"""Sans-I/O. permessage-deflate as an extension of the library websockets: what is negotiated, and
which frames go through deflate.py. Inflating takes more than one turn, so a frame comes out of the
library's parser without its data, and receiver.py inflates it step by step.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from websockets.frames import (
    BINARY,
    CONT,
    TEXT,
    Frame,
)
from websockets.typing import ExtensionName, ExtensionParameter

from wsraw.config.settings import Settings
from wsraw.gateway.websocket import deflate


class DeflateExtension(Extension):
    """What was agreed on with one peer, and its codec."""

    name = ExtensionName(deflate.NAME)

    def __init__(self, terms: deflate.Terms, settings: Settings) -> None:
        self.codec = deflate.Codec(terms, settings)
        self.begun = False
        """The frame that was just parsed is compressed, and its data are yet to come."""
        self._limit = settings.frame_limit
        self._inflating = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """A frame as it was received. One that is compressed comes back empty, and is `begun`."""
        opcode = frame.opcode
        if opcode is CONT:
            # With its RSV1 bit set it is left as it is, which the library finds.
            if frame.rsv1 or not self._inflating:
                return frame
        elif not frame.rsv1 or (opcode is not TEXT and opcode is not BINARY):
            return frame
        self._inflating = not frame.fin
        self.codec.begin(frame.data, opcode is not CONT, frame.fin, self._limit)
        self.begun = True
        frame.data = b""
        frame.rsv1 = False
        return frame

    def inflate(self, most: int) -> tuple[int, bytes | None]:
        """Some of the frame that was begun; see `Codec.inflate`. Raises what the library's parser
        would."""
        try:
            return self.codec.inflate(most)
        except deflate.TooBigError as error:
            raise PayloadTooBig(None, self._limit) from error
        except deflate.InflateError as error:
            raise ProtocolError(str(error)) from error

    def encode(self, frame: Frame) -> Frame:
        """A control frame, which is not compressed; data frames are made in websocket.py."""
        return frame


class ServerDeflate(ServerExtensionFactory):
    """Answers the offers of a client."""

    name = ExtensionName(deflate.NAME)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Extension]:
        """Our answer to one offer. Raises NegotiationError if it cannot be taken."""
        if accepted_extensions:
            raise NegotiationError("of several offers one is taken")
        try:
            said, terms = deflate.answer(params, self._settings)
        except ValueError as error:
            raise NegotiationError(str(error)) from error
        return said, DeflateExtension(terms, self._settings)


class ClientDeflate(ClientExtensionFactory):
    """Offers it to a server."""

    name = ExtensionName(deflate.NAME)

    def __init__(self, params: list[ExtensionParameter], settings: Settings) -> None:
        self._params = params
        self._settings = settings

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        """The offer."""
        return self._params

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> Extension:
        """What the server has taken. Raises NegotiationError if that was not offered."""
        if accepted_extensions:
            raise NegotiationError("two extensions for the same")
        try:
            return DeflateExtension(deflate.accept(params, self._settings), self._settings)
        except ValueError as error:
            raise NegotiationError(str(error)) from error

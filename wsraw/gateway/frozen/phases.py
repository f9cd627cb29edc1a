"""Sans-I/O. What a connection does in one part of its life, to a record and back.

The first bytes of a connection, and the head of a request, are parsed again in the new gateway: the
findings do not depend on how the bytes are split. A connection that is being dialled is dialled
again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from wsraw.config.addresses import Listen, parse_address
from wsraw.config.settings import Settings
from wsraw.gateway.admission.policy import AdmissionPolicy, Client
from wsraw.gateway.admission.proxy_protocol import ProxyReader
from wsraw.gateway.admission.routes import Found
from wsraw.gateway.admission.sniffer import Sniffer
from wsraw.gateway.connection.accepting import _Accepting, _following, _NextRequest, _OverLimit
from wsraw.gateway.connection.connection import _CLOSED, Connection, Ending, Phase
from wsraw.gateway.connection.dialing import _Dialing
from wsraw.gateway.connection.phases import _CLOSING, _OPEN, _SHUT, _VIOLATED, _HalfClosed
from wsraw.gateway.connection.requests.phases import Answering, Receiving, _Again, _follow
from wsraw.gateway.connection.verdict import AwaitingVerdict
from wsraw.gateway.frozen.copying import Plan
from wsraw.gateway.frozen.records import (
    AcceptingState,
    AnsweringState,
    ClientState,
    ClosedState,
    ClosingState,
    DialingState,
    ExchangeState,
    FollowingState,
    FoundState,
    FrozenError,
    HalfClosedState,
    NextState,
    OpenState,
    OverLimitState,
    PassedState,
    PhaseState,
    ReceivingState,
    ResponseState,
    ShutState,
    VerdictState,
    ViolatedState,
)
from wsraw.gateway.frozen.websocket import UnmovableError

BETWEEN_POOLS: Final = "its request is between two pools"

ACCEPTING: Final = Plan(
    _Accepting,
    AcceptingState,
    translated="_awaits_tls _client _in_tls _listen _proxy _sniffer",
    left_out={"_policy": "the gateway's"},
)
NEXT_REQUEST: Final = Plan(_NextRequest, AcceptingState, translated="_begun")
PROXY: Final = Plan(
    ProxyReader,
    AcceptingState,
    translated="_buffer",
    left_out={
        "_optional": "the listener's rules",
        "_trusted": "the setting trusted_proxies",
        "found": "read again",
    }
    | dict.fromkeys(("address", "error", "peer", "rest", "state", "tls"), "not before its end"),
)
SNIFFER: Final = Plan(
    Sniffer,
    AcceptingState,
    translated="buffer",
    left_out={"_any_method": "the listener's rules", "_max_head": "the setting max_header_size"}
    | dict.fromkeys(("_seen", "finding", "head_size"), "read again"),
)
OVER_LIMIT: Final = Plan(_OverLimit, OverLimitState, copied="_answer _seen")
RECEIVING: Final = Plan(Receiving, ReceivingState, translated="_exchange _following _pools")
ANSWERING: Final = Plan(
    Answering, AnsweringState, translated="_exchange _following _pools _body _is_begun"
)
AGAIN: Final = Plan(
    _Again, AnsweringState, left_out=dict.fromkeys(("_body", "_phase"), BETWEEN_POOLS)
)
VERDICT: Final = Plan(
    AwaitingVerdict,
    VerdictState,
    translated="_close_wanted",
    left_out={"_policy": "the gateway's"},
)
DIALING: Final = Plan(
    _Dialing,
    DialingState,
    translated="_close_wanted _opening",
    left_out={"_is_connected": "it is dialled anew"},
)
HALF_CLOSED: Final = Plan(_HalfClosed, HalfClosedState, translated="_drained")


class Place(NamedTuple):
    """The new gateway, as far as a phase depends on it."""

    settings: Settings
    """The settings of the run."""
    settings_of: Callable[[str], Settings]
    """Gives the settings of a pool."""
    policy: AdmissionPolicy
    listens: dict[str, Listen]
    """The present listeners, by name."""

    def listen(self, before: Listen) -> Listen:
        """The present rules of a listener; if it is gone, its former rules."""
        return self.listens.get(before.name, before)

    def found(self, state: FoundState) -> Found:
        """A pool that may answer a request."""
        settings = self.settings_of(state.pool)
        return Found(state.pool, settings, state.params, state.subprotocol)


# --- to a record ---


def freeze_phase(con: Connection) -> PhaseState:
    """The record of a phase. Raises UnmovableError."""
    phase = con.phase
    simple = _SIMPLE.get(id(phase))
    if simple is not None:
        return simple
    freeze = _FREEZE.get(type(phase))
    if freeze is None:
        raise UnmovableError(BETWEEN_POOLS)
    return freeze(con, phase)


_SIMPLE: Final[dict[int, PhaseState]] = {
    id(_OPEN): OpenState(),
    id(_SHUT): ShutState(),
    id(_CLOSING): ClosingState(),
    id(_VIOLATED): ViolatedState(),
    id(_CLOSED): ClosedState(),
}


def _freeze_client(client: Client, about: dict[str, Any] | None) -> ClientState:
    address = client.address
    return ClientState(
        None if client.about is about else client.about,
        str(address) if address is not None else None,
        client.address_key,
    )


def _freeze_accepting(con: Connection, phase: _Accepting) -> AcceptingState:
    proxy = phase._proxy
    return AcceptingState(
        phase._listen,
        _freeze_client(phase._client, con.about),
        bytes(phase._sniffer.buffer),
        bytes(proxy._buffer) if proxy is not None else None,
        phase._awaits_tls,
        phase._in_tls,
        phase._begun if isinstance(phase, _NextRequest) else None,
    )


def _freeze_over_limit(con: Connection, phase: _OverLimit) -> OverLimitState:
    return OVER_LIMIT.freeze(phase)


def _freeze_exchange(phase: Receiving | Answering) -> ExchangeState:
    progress = phase._exchange.progress
    response = progress.response
    begun = ResponseState(*response, progress.sent) if response is not None else None
    return ExchangeState(*progress[:-2], begun)


def _freeze_following(phase: Receiving | Answering | partial[Connection]) -> FollowingState:
    following: Any = phase if isinstance(phase, partial) else phase._following
    listen, _settings, _policy, client = following.args
    return FollowingState(listen, _freeze_client(client, None))


def _freeze_found(pools: list[Found]) -> list[FoundState]:
    return [FoundState(found.pool, found.params, found.subprotocol) for found in pools]


def _freeze_receiving(con: Connection, phase: Receiving) -> ReceivingState:
    pools = _freeze_found(phase._pools)
    return ReceivingState(_freeze_exchange(phase), pools, _freeze_following(phase))


def _freeze_answering(con: Connection, phase: Answering) -> AnsweringState:
    return AnsweringState(
        _freeze_exchange(phase),
        _freeze_found(phase._pools),
        _freeze_following(phase),
        phase._body,
        phase._is_begun,
    )


def _freeze_verdict(con: Connection, phase: AwaitingVerdict) -> VerdictState:
    return VerdictState(phase._close_wanted)


def _freeze_dialing(con: Connection, phase: _Dialing) -> DialingState:
    return DialingState(phase._opening, phase._close_wanted)


def _freeze_half_closed(con: Connection, phase: _HalfClosed) -> HalfClosedState:
    return HalfClosedState(phase._drained)


_FREEZE: Final[dict[type, Callable[[Connection, Any], PhaseState]]] = {
    _Accepting: _freeze_accepting,
    _NextRequest: _freeze_accepting,
    _OverLimit: _freeze_over_limit,
    Receiving: _freeze_receiving,
    Answering: _freeze_answering,
    AwaitingVerdict: _freeze_verdict,
    _Dialing: _freeze_dialing,
    _HalfClosed: _freeze_half_closed,
}


def freeze_successor(ending: Ending) -> NextState | PassedState | None:
    """The record of what continues on the socket of a request that has ended."""
    successor: Any = ending.successor
    if successor is None:
        return None
    if successor.func is _follow:
        following, rest = successor.args
        return NextState(_freeze_following(following), rest)
    old, inf, about, rest = successor.args
    phase: Answering = successor.func.__self__
    return PassedState(_freeze_answering(old, phase), inf, about, rest)


# --- out of a record ---


def thaw_phase(state: PhaseState, con: Connection, place: Place) -> Phase:
    """The phase of a connection."""
    match state:
        case OpenState():
            return _OPEN
        case ShutState():
            return _SHUT
        case ClosedState():
            return _CLOSED
        case ClosingState():
            return _CLOSING
        case ViolatedState():
            return _VIOLATED
        case HalfClosedState():
            half_closed = _HalfClosed()
            half_closed._drained = state.drained
            return half_closed
        case AcceptingState():
            return _thaw_accepting(state, con, place)
        case OverLimitState():
            over_limit = _OverLimit(state.answer)
            OVER_LIMIT.thaw(state, over_limit)
            return over_limit
        case ReceivingState():
            pools = [place.found(each) for each in state.pools]
            following = _thaw_following(state.following, place)
            return Receiving(_thaw_exchange(state.exchange, con.settings), pools, following)
        case AnsweringState():
            return _thaw_answering(state, con.settings, place)
        case VerdictState():
            verdict = AwaitingVerdict(place.policy)
            verdict._close_wanted = state.close_wanted
            return verdict
        case DialingState():
            dialing = _Dialing(state.opening)
            dialing._close_wanted = state.close_wanted
            return dialing


def _thaw_client(state: ClientState, about: dict[str, Any]) -> Client:
    address = None
    if state.address is not None:
        address = parse_address(state.address) or state.address
    return Client(about if state.about is None else state.about, address, state.address_key)


def _thaw_accepting(state: AcceptingState, con: Connection, place: Place) -> _Accepting:
    listen, client = place.listen(state.listen), _thaw_client(state.client, con.about)
    phase: _Accepting
    if state.begun is not None:
        phase = _NextRequest(listen, place.settings, place.policy, client, state.begun)
    else:
        phase = _Accepting(listen, place.settings, place.policy, client)
        phase._awaits_tls, phase._in_tls = state.awaits_tls, state.in_tls
        phase._proxy = None
        if state.proxy is not None:
            optional = listen.proxy_protocol != "required"
            phase._proxy = ProxyReader(optional, place.policy.trusts(client.address))
            if state.proxy:
                phase._proxy.receive_data(state.proxy)
    if state.seen:
        phase._sniffer.receive_data(state.seen)
    return phase


def _thaw_following(state: FollowingState, place: Place) -> partial[Connection]:
    client = _thaw_client(state.client, {})
    return partial(_following, place.listen(state.listen), place.settings, place.policy, client)


def _thaw_exchange(state: ExchangeState, settings: Settings) -> Any:
    from wsraw.gateway.connection.requests.exchange import Exchange, Progress, RequestError

    response = state.response
    try:
        return Exchange.again(
            Progress(
                state.head,
                max(state.max_body, settings.max_message_size),
                state.front,
                state.body,
                state.back,
                state.rest,
                state.is_complete,
                state.has_more,
                state.waits,
                (response.status, response.reason, response.headers) if response else None,
                response.sent if response else 0,
            )
        )
    except (RequestError, ValueError) as error:
        raise FrozenError(f"a request of the gateway that was before: {error}") from error


def _thaw_answering(state: AnsweringState, settings: Settings, place: Place) -> Answering:
    pools = [place.found(each) for each in state.pools]
    exchange = _thaw_exchange(state.exchange, settings)
    phase = Answering(exchange, state.body, pools, _thaw_following(state.following, place))
    phase._pools, phase._body, phase._is_begun = pools, state.body, state.is_begun
    return phase


def thaw_successor(
    state: NextState | PassedState, con: Connection, place: Place
) -> Callable[[int, float], Connection]:
    """What continues on the socket of a request that has ended."""
    if isinstance(state, NextState):
        return partial(_follow, _thaw_following(state.following, place), state.rest)
    phase = _thaw_answering(state.phase, con.settings, place)
    return partial(phase._hand_over, con, state.inf, state.about, state.rest)

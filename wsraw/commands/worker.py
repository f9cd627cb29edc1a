"""`wsraw worker`: one worker that is started by hand, on this machine or another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from wsraw.commands.checks import check_program
from wsraw.commands.failures import WrongUse
from wsraw.commands.options import OF_WORKERS, GroupedCommand, gather, setting_options
from wsraw.config import programs
from wsraw.config.addresses import is_loopback_endpoint


@click.command(cls=GroupedCommand, params=setting_options(OF_WORKERS))
@click.argument("program", metavar="FILE|COMMAND")
@click.option(
    "--connect",
    "endpoint",
    metavar="ENDPOINT",
    envvar="WSRAW_ENDPOINT",
    default="",
    help="Address of the gateway, as `wsraw run` logs it: ipc://DIR/link.sock or tcp://HOST:PORT. "
    "Default: the gateway of the run in --run-dir.",
)
@click.option(
    "--run-dir",
    metavar="FOLDER",
    envvar="WSRAW_RUN_DIR",
    default="",
    help="The run folder of a run on this machine. The worker finds the gateway's address and the "
    "token in it.",
)
@click.option(
    "--token",
    metavar="SECRET",
    envvar="WSRAW_TOKEN",
    default="",
    help="The secret that admits workers. Default: WSRAW_TOKEN, or the content of the file `token` "
    "in --run-dir, or in DIR of an ipc:// endpoint.",
)
@click.option(
    "--pool",
    metavar="NAME",
    envvar="WSRAW_POOL",
    default="default",
    show_default=True,
    help="The pool that the worker joins.",
)
@click.option(
    "--key",
    metavar="FILE",
    default="",
    help="File with the secret key of this worker, for a gateway on another machine. `wsraw "
    "keygen` writes it.",
)
@click.option(
    "--gateway-key",
    metavar="FILE",
    default="",
    help="File with the public key of that gateway (NAME.pub).",
)
def worker(
    program: str,
    endpoint: str,
    run_dir: str,
    token: str,
    pool: str,
    key: str,
    gateway_key: str,
    **values: Any,
) -> int:
    """Run one worker by hand, on this machine or another.

    The worker runs the handlers in FILE. COMMAND is a worker in another language.
    """
    is_known = bool(run_dir) and not endpoint
    if is_known:
        endpoint, token = _find(run_dir, token)
    _check_link(endpoint, is_known, key, gateway_key)
    found = _program(program)
    settings = gather(values).settings
    keys = _read_keys(key, gateway_key) if key else _keys_of_environment(is_known, endpoint)
    from wsraw.runtime import launch

    code = launch.as_process_1()
    if code is not None:
        return code
    token = token or (_token_of_run(run_dir, endpoint) if keys is None else "")
    for name in ("WSRAW_ENDPOINT", "WSRAW_TOKEN", "WSRAW_POOL", "WSRAW_RUN_DIR"):
        # Programs that a handler starts must not use these variables.
        os.environ.pop(name, None)
    if found.file is None:
        return _become(found.words, endpoint, token, pool, keys)
    from wsraw.workers import process
    from wsraw.workers.shells.dealer import LinkKeys

    link_keys = LinkKeys(*keys) if keys is not None else None
    launch.unblock_signals()
    return process.main(found.file, endpoint, token, pool, settings, link_keys, is_known=is_known)


def _find(run_dir: str, token: str) -> tuple[str, str]:
    """Endpoint and token of the run in that folder. A token that was given is kept."""
    from wsraw.runtime.link import place

    folder = Path(run_dir).absolute()
    token = token or _read_token(folder)
    try:
        return place.endpoint(folder), token
    except OSError as error:
        raise _not_there(error) from error


def _read_token(folder: Path) -> str:
    from wsraw.runtime.link import place

    try:
        return place.token(folder)
    except OSError as error:
        raise _not_there(error) from error


def _not_there(error: OSError) -> WrongUse:
    return WrongUse(
        f"{error.filename}: {error.strerror}; is `wsraw run` running there, under your user?"
    )


def _check_link(endpoint: str, is_known: bool, key: str, gateway_key: str) -> None:
    if not endpoint:
        raise WrongUse("where is the gateway? Give --connect, or --run-dir")
    if not endpoint.startswith(("ipc://", "tcp://")):
        raise WrongUse(f"--connect {endpoint}: write ipc://DIR/link.sock or tcp://HOST:PORT")
    if bool(key) != bool(gateway_key):
        raise WrongUse("--key and --gateway-key belong together: give both, or neither")
    if key and (is_known or not endpoint.startswith("tcp://")):
        raise WrongUse("--key: keys are for tcp:// endpoints; on this machine the token suffices")


def _program(text: str) -> programs.Program:
    try:
        program, number = programs.parse(text, os.path.isfile)
    except ValueError as error:
        raise WrongUse(str(error).removeprefix("workers: ")) from error
    if number != 1 or text.endswith(":1"):
        raise WrongUse(f"{text}: leave out the number; to run several workers, start several")
    check_program(program, "")
    return program


def _read_keys(key: str, gateway_key: str) -> tuple[str, str]:
    from wsraw.runtime import keys

    try:
        return keys.read_secret(key), keys.read_public(gateway_key)
    except keys.KeyFileError as error:
        raise WrongUse(str(error)) from error


def _keys_of_environment(is_known: bool, endpoint: str) -> tuple[str, str] | None:
    """The keys in the variables that a worker in another language gets. They are removed, so that a
    handler's programs do not get them."""
    secret, gateway, _ = (
        os.environ.pop(f"WSRAW_CURVE_{name}KEY", "") for name in ("SECRET", "SERVER", "PUBLIC")
    )
    is_remote = endpoint.startswith("tcp://") and not is_known
    return (secret, gateway) if is_remote and secret and gateway else None


def _become(
    words: Sequence[str], endpoint: str, token: str, pool: str, keys: tuple[str, str] | None
) -> int:
    """Become a worker in another language, with the environment of docs/worker-protocol.md."""
    import secrets

    from wsraw.commands.keys import public_of
    from wsraw.runtime import launch

    os.environ |= {
        "WSRAW_ENDPOINT": endpoint,
        "WSRAW_TOKEN": token,
        "WSRAW_POOL": pool,
        "WSRAW_INSTANCE": secrets.token_hex(8),
    }
    if keys is not None:
        secret, gateway = keys
        os.environ |= {
            "WSRAW_CURVE_SERVERKEY": gateway,
            "WSRAW_CURVE_PUBLICKEY": public_of(secret),
            "WSRAW_CURVE_SECRETKEY": secret,
        }
    return launch.become(words)


def _token_of_run(run_dir: str, endpoint: str) -> str:
    """The token in the folder of an ipc:// endpoint; for another endpoint on this machine, the
    token in the run folder. A token is never sent to another machine."""
    if endpoint.startswith("ipc://"):
        run_dir = os.path.dirname(endpoint.removeprefix("ipc://"))
    elif not run_dir or not _is_loopback(endpoint):
        raise WrongUse("no token: give --token or WSRAW_TOKEN (it is in the file RUN_DIR/token)")
    return _read_token(Path(run_dir).absolute())


def _is_loopback(endpoint: str) -> bool:
    try:
        return is_loopback_endpoint(endpoint)
    except ValueError:
        # A host name: where it leads is not known.
        return False

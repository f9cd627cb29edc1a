"""Keys of the worker link: `wsraw keygen`, and the key files that commands name.

ZeroMQ generates keys. runtime/keys.py reads and writes the files without it.
"""

from __future__ import annotations

from pathlib import Path

import click

from wsraw.commands.failures import WrongUse


@click.command()
@click.argument("folder", default=".", metavar="[FOLDER]")
@click.option(
    "--name",
    metavar="NAME",
    default="worker",
    show_default=True,
    help="Name of the key's owner. The log shows it, and the files are NAME.key and NAME.pub.",
)
def keygen(folder: str, name: str) -> None:
    """Generate a key pair for links to other machines.

    Write NAME.key and NAME.pub to FOLDER (default: the current one). Make a pair for the gateway,
    and one for each worker on another machine.

    NAME.key is secret: keep it on its machine. Copy NAME.pub to the other side. The gateway reads
    the workers' public keys from --worker-keys, and a worker reads the gateway's from
    --gateway-key.
    """
    from wsraw.runtime.keys import KeyFileError

    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise WrongUse(f"--name {name!r}: write letters, digits, - and _")
    try:
        secret, public = make_pair(folder, name)
    except KeyFileError as error:
        raise WrongUse(str(error)) from error
    click.echo(f"{secret}: secret; {public}: for the other side")


def make_pair(folder: str, name: str) -> tuple[Path, Path]:
    """Write the files of a new pair; returns their paths, the secret one first.

    Raises KeyFileError.
    """
    import zmq

    from wsraw.runtime import keys

    if not zmq.has("curve"):
        raise keys.KeyFileError("this libzmq was built without CURVE; install the wheel of pyzmq")
    public, secret = zmq.curve_keypair()
    return keys.write_pair(Path(folder), name, public.decode(), secret.decode())


def public_of(secret: str) -> str:
    """The public key of a secret key."""
    import zmq

    return zmq.curve_public(secret.encode()).decode()

"""Events during a trial of new handlers, with real processes: every reason to roll back, and
other commands, signals and deaths meanwhile. Clients must notice nothing.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.deadline import COMMAND_DEADLINE, DEADLINE, UNIT, eventually
from tests.e2e.command_line import ask, done, until_ready
from tests.e2e.serving import Serving, posix, receive_exactly, serve
from tests.e2e.test_canary import Clients, reload, shop
from tests.needs import KILL
from tests.running import command, environment
from tests.test_docs import PROTOCOL, blocks

Write = Callable[[str], Path]


def rolled_back(waiting: subprocess.Popen[str], clients: Clients, answers: set[bytes]) -> str:
    """Let clients ask until the trial is rolled back; returns the reason."""
    for _ in until_over(waiting):
        assert clients.ask() <= answers
    _, error = waiting.communicate(timeout=DEADLINE)
    assert waiting.returncode == 1, error
    return error


def until_over(waiting: subprocess.Popen[str]) -> Iterator[None]:
    """Iterate while a command is running, within the deadline."""
    until = time.monotonic() + COMMAND_DEADLINE
    while waiting.poll() is None:
        assert time.monotonic() < until, "the command does not end"
        yield


def on_trial(serving: Serving) -> dict[str, Any] | None:
    (pool,) = serving.status()["pools"]
    found: dict[str, Any] | None = pool["canary"]
    return found


# --- the verdict ---


@pytest.mark.long
@pytest.mark.parametrize("shield", [("--shield",), ()], ids=["shielded", "unshielded"])
def test_a_version_that_hangs_is_rolled_back(handlers: Write, shield: tuple[str, ...]) -> None:
    with (
        serve(shop(handlers, "old"), "--handler-timeout=1s", workers=2) as serving,
        Clients(serving) as clients,
    ):
        clients.ask()
        handlers("import time\ndef on_message(msg, con): time.sleep(3600)\n")
        with reload(serving, "50%", "--for=1h", *shield) as waiting:
            assert "its on_message of" in rolled_back(waiting, clients, {b"old"})
        assert clients.ask() == {b"old"}
        assert serving.status()["pools"][0]["canaries"]["died"] == 1


def test_a_version_that_ends_connections_is_rolled_back(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        handlers("""
            def on_message(msg, con):
                if msg["data"] == b"x":
                    return b"new"
                con.close()
        """)
        with reload(serving, "50%", "--for=1h") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            of_new = [
                sock
                for sock, answer in zip(clients.socks, clients.answers, strict=True)
                if answer == b"new"
            ]
            assert len(of_new) > 9
            for victim in of_new[:9]:
                clients.socks.remove(victim)
                victim.sendall(b"end")
                # After the rollback, which may come before the last of these, the old handlers
                # answer.
                assert victim.recv(3) in (b"", b"old")
                victim.close()
            why = rolled_back(waiting, clients, {b"old", b"new"})
        assert re.search(r"they ended [6-9] connections \(handler\) in ", why)
        eventually(lambda: clients.ask() == {b"old"}, "the old handlers")


@pytest.mark.long
def test_a_slower_version_is_rolled_back_at_the_end_of_its_trial(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        handlers("""
            import time
            def on_message(msg, con):
                time.sleep(0.005)
                return b"new"
        """)
        with reload(serving, "50%", "--for", f"{6 * UNIT:g}s") as waiting:
            why = rolled_back(waiting, clients, {b"old", b"new"})
        assert "on_message takes " in why
        assert "a call on average; with the old workers " in why
        assert serving.status()["pools"][0]["last_canary"]["outcome"] == "slow"


# --- a shield ---

SHIELDED = {
    "on_connect": "{word} on_connect(inf, con): 1 / 0\n",
    "on_close": "{word} on_close(con): 1 / 0\n",
    "on_attach": "{word} on_attach(con): 1 / 0\n{word} on_message(msg, con): return msg\n",
}


@pytest.mark.long
@pytest.mark.parametrize("what", SHIELDED)
@pytest.mark.parametrize("word", ["def", "async def"])
def test_each_handler_is_shielded(handlers: Write, tmp_path: Path, what: str, word: str) -> None:
    """The old version handles the event that the new one failed at, and handles each event once."""
    log = tmp_path / "seen"
    old = f"""
        def seen(what, con):
            with open({str(log)!r}, "a") as file:
                file.write(f"{{what}} {{con.id}} {{con.delivery}}\\n")
        def on_connect(inf, con): seen("on_connect", con)
        def on_message(msg, con):
            con.state = (con.state or 0) + 1
            return str(con.state).encode()
        def on_close(con): seen("on_close", con)
    """
    with (
        ExitStack() as stack,
        serve(handlers(old), "--verdict=handlers", workers=2, tracebacks=True) as serving,
    ):
        old_ones = [stack.enter_context(serving.tcp()) for _ in range(20)]
        for sock in old_ones:
            sock.sendall(b"x")
            assert receive_exactly(sock, 1) == b"1"
        handlers(SHIELDED[what].format(word=word))
        with reload(serving, "50%", "--for=1h", "--shield") as waiting:
            if what == "on_close":
                eventually(lambda: (on_trial(serving) or {}).get("connections"), "its share")
            more = []
            for _ in until_over(waiting):
                if what == "on_connect":
                    more.append(stack.enter_context(serving.ws()))
                elif what == "on_attach":
                    for sock in old_ones:
                        sock.sendall(b"x")
                    assert all(receive_exactly(sock, 1) for sock in old_ones)
                elif old_ones:
                    old_ones.pop().close()
            _, error = waiting.communicate(timeout=DEADLINE)
        reason = "on_message" if what == "on_attach" else what
        assert f"rolled back: {reason} raised " in error
        for web in more:
            web.send(b"x")
            assert web.recv(DEADLINE) == b"1"
            web.close()
        count = 20 + len(more)
        for sock in old_ones:
            sock.close()
        eventually(lambda: log.read_text().count("on_close") == count, "each on_close")
        lines = [line.split() for line in log.read_text().splitlines()]
        events = [(name, con) for name, con, _ in lines]
        assert len(events) == len(set(events)) == 2 * count
        again = {(name, delivery) for name, _, delivery in lines}
        assert (what, "2") in again or what == "on_attach"


def test_a_shield_is_refused_where_nothing_may_be_handled_twice(handlers: Write) -> None:
    with serve(shop(handlers, "old"), "--delivery=at-most-once") as serving:
        refused = ask(serving, "reload", "--canary", "--shield")
        assert refused.returncode == 1
        assert "the pool default has delivery = at-most-once, so none of its" in refused.stderr


@pytest.mark.long
def test_a_shield_can_be_the_default(handlers: Write) -> None:
    with (
        serve(shop(handlers, "old"), "--canary-shield", workers=2, tracebacks=True) as serving,
        Clients(serving) as clients,
    ):
        clients.ask()
        handlers("def on_message(msg, con): 1 / 0\n")
        with reload(serving, "50%", "--for=1h") as waiting:
            rolled_back(waiting, clients, {b"old"})
        assert clients.ask() == {b"old"}


# --- beside other things ---


@pytest.mark.long
def test_figures_of_its_handlers_are_shown_during_a_canary(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        shop(handlers, "new")
        with reload(serving, "50%", "--for=1h") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")

            def shown() -> bool:
                canary = on_trial(serving)
                return canary is not None and bool((canary["handlers"] or {}).get("on_message"))

            eventually(shown, "its figures")
            text = done(serving, "status")
            assert "default/canary" in text
            assert "on_message" in text
            done(serving, "rollback")
            waiting.communicate(timeout=DEADLINE)


@pytest.mark.long
def test_workers_may_die_and_be_scaled_during_a_canary(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        shop(handlers, "new")
        with reload(serving, "50%", "--for", f"{10 * UNIT:g}s") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            os.kill(serving.worker(1), KILL)
            assert clients.ask() == {b"old", b"new"}
            assert done(serving, "scale", "3") == "3 workers\n", "and it does not wait for its end"
            assert on_trial(serving) is not None
            assert clients.ask() <= {b"old", b"new"}
            done(serving, "scale", "1")
            for _ in until_over(waiting):
                clients.ask()
            out, error = waiting.communicate(timeout=COMMAND_DEADLINE)
        assert (waiting.returncode, out) == (0, "reloaded: 1 worker\n"), error
        assert clients.ask() == {b"new"}
        until_ready(serving, 1)


@pytest.mark.long
def test_a_trial_goes_on_when_the_command_that_waits_for_it_is_ended(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        shop(handlers, "new")
        with reload(serving, "50%", "--for", f"{3 * UNIT:g}s") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            if os.name == "posix":
                waiting.send_signal(signal.SIGINT)
            else:
                waiting.kill()
            _, error = waiting.communicate(timeout=DEADLINE)
            assert "Traceback" not in error
        assert on_trial(serving) is not None
        eventually(lambda: clients.ask() == {b"new"}, "its end", COMMAND_DEADLINE)


@pytest.mark.long
@posix
def test_sighup_ends_a_canary_and_reloads(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        shop(handlers, "new")
        with reload(serving, "50%", "--for=1h") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            serving.run.send(signal.SIGHUP)
            why = rolled_back(waiting, clients, {b"old", b"new"})
            assert "a reload was asked for" in why
        eventually(lambda: clients.ask() == {b"new"}, "the new handlers")


def test_a_stop_during_a_canary_ends_all_workers_in_order(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        shop(handlers, "new")
        with reload(serving, "50%", "--for=1h") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            assert "stopped, exit code 0" in done(serving, "stop")
            _, error = waiting.communicate(timeout=DEADLINE)
            assert "the run has stopped" in error
        assert serving.run.wait() == 0


@pytest.mark.long
def test_an_upgrade_is_refused_while_a_canary_runs(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        shop(handlers, "new")
        with reload(serving, "50%", "--for=1h") as waiting:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            refused = ask(serving, "upgrade")
            assert refused.returncode == 1
            assert "a canary is under way" in refused.stderr
            assert clients.ask() == {b"old", b"new"}
            done(serving, "rollback")
            waiting.communicate(timeout=DEADLINE)
        if os.name == "posix":
            done(serving, "upgrade")
        assert clients.ask() == {b"old"}


@pytest.mark.long
def test_each_pool_has_a_trial_of_its_own(handlers: Write, tmp_path: Path) -> None:
    """One pool is rolled back; the other pool's trial goes on, and is promoted."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    for file in (good, bad):
        file.write_text("def on_message(msg, con): return b'old'\n")
    config = tmp_path / "wsraw.toml"
    config.write_text(
        f"workers = [{str(good)!r}]\n[[pools]]\nname = 'bad'\nworkers = [{str(bad)!r}]\n"
        "[[routes]]\npath = '/bad'\npool = 'bad'\n"
    )
    with ExitStack() as stack, serve(None, f"--config={config}", tracebacks=True) as serving:
        until_ready(serving, 2)
        ones = [stack.enter_context(serving.ws()) for _ in range(15)]
        twos = [stack.enter_context(serving.ws(path="/bad")) for _ in range(15)]

        def asked(clients: list[ClientConnection]) -> set[Any]:
            for client in clients:
                client.send(b"x")
            return {client.recv(DEADLINE) for client in clients}

        assert asked(ones + twos) == {b"old"}
        good.write_text("def on_message(msg, con): return b'new'\n")
        bad.write_text("def on_message(msg, con): 1 / 0\n")
        seconds = f"{4 * UNIT:g}s"
        with reload(serving, "50%", "--for", seconds, "--shield") as waiting:
            for _ in until_over(waiting):
                assert asked(ones) <= {b"old", b"new"}
                assert asked(twos) == {b"old"}
            _, error = waiting.communicate(timeout=COMMAND_DEADLINE)
        assert waiting.returncode == 1
        assert "bad: rolled back: on_message raised" in error
        assert asked(ones) == {b"new"}
        assert asked(twos) == {b"old"}
        pools = {pool["name"]: pool["canaries"] for pool in serving.status()["pools"]}
        assert (pools["default"]["promoted"], pools["bad"]["exceptions"]) == (1, 1)


def test_workers_that_were_started_by_hand_serve_beside_a_canary(
    handlers: Write, tmp_path: Path
) -> None:
    """Such workers count neither as old nor as new in the verdict, and their clients stay."""
    by_hand = tmp_path / "by_hand.py"
    by_hand.write_text("def on_message(msg, con): return b'own'\n")
    with serve(shop(handlers, "old"), workers=1, tracebacks=True) as serving:
        worker = subprocess.Popen(
            command("worker", str(by_hand), "--run-dir", str(serving.folder)),
            env=environment(),
            stderr=subprocess.PIPE,
        )
        try:
            eventually(lambda: len(serving.status()["by_hand"]) == 1, "the worker by hand")
            with Clients(serving) as clients:
                clients.ask()
                handlers("def on_message(msg, con): 1 / 0\n")
                with reload(serving, "50%", "--for=1h", "--shield") as waiting:
                    rolled_back(waiting, clients, {b"old", b"own"})
                assert clients.ask() <= {b"old", b"own"}
        finally:
            worker.terminate()
            worker.communicate(timeout=DEADLINE)


GIVES_BACK = """
        elif tag == "detach":
            given_back.discard(fields[0])
        elif tag == "on_message" and fields[1] in given_back:
            pass
        elif tag == "on_message":
            given_back.add(fields[1])
            batch.append(["give_back", fields[0]])
        elif tag == "handled" """
"""What a worker in any language does whose handler fails: here that of each message does."""


@pytest.mark.long
@posix
def test_workers_in_other_languages_are_shielded_if_they_give_back(tmp_path: Path) -> None:
    """This covers the small worker of the protocol's page, and a worker that always fails."""
    (small,) = blocks(PROTOCOL, "python")
    file = tmp_path / "small"
    file.write_text(small)
    with serve(None, f"--workers={sys.executable} {file}:2") as serving:
        until_ready(serving, 2)
        with Clients(serving) as clients:
            for sock in clients.socks:
                sock.sendall(b"abc")
                assert receive_exactly(sock, 3) == b"ABC"
            fails = small.replace('\n        elif tag == "on_message"', GIVES_BACK, 1)
            fails = fails.replace("session = 0\n", "session = 0\ngiven_back = set()\n", 1)
            assert fails.count("give_back") == 1
            file.write_text(fails)
            with reload(serving, "50%", "--for=1h", "--shield") as waiting:
                for _ in until_over(waiting):
                    for sock in clients.socks:
                        sock.sendall(b"abc")
                    for sock in clients.socks:
                        assert receive_exactly(sock, 3) == b"ABC"
                _, error = waiting.communicate(timeout=DEADLINE)
        assert "rolled back: they gave back " in error
        assert serving.status()["pools"][0]["given_back"]

from __future__ import annotations

from wsraw.gateway.sessions.tokens import GONE_TOKENS_KEPT, Tokens


def test_a_process_has_one_token_but_many_are_for_workers_started_by_hand() -> None:
    tokens = Tokens()
    for token in ("a", "b"):
        tokens.add(token, 3)
        tokens.add(f"by hand {token}", 0)
    found = [tokens.number(token) for token in ("a", "b", "by hand a", "by hand b", "", "c")]
    assert found == [None, 3, 0, 0, None, None]


def test_tokens_of_exited_processes_are_remembered_up_to_a_bound() -> None:
    tokens = Tokens()
    for n in range(1, GONE_TOKENS_KEPT + 2):
        tokens.add(f"token {n}", n)
        tokens.remove(n)
    assert tokens.number("token 2") is None
    assert tokens.gone("token 1") is None
    assert tokens.gone("token 2") == 2
    assert tokens.gone("another") is None

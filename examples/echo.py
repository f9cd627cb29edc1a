"""Echo: send each message back unchanged, text as text, binary as binary, raw as raw.

wsraw run --workers examples/echo.py
"""


def on_message(msg, con):
    return msg

"""Everything that comes goes back as it came: text as text, binary as binary, raw as raw."""


def on_message(msg, con):
    return msg

"""miguelgrinberg/flask-sock#10, Lawouach/WebSocket-for-Python#3: `Connection: keep-alive, Upgrade`, in one field
or in two, any case, and more than one Upgrade."""

from lib import *

with Run("def on_message(msg, con): return msg\n") as r:
    said, right = [], True
    for name, headers, drop in (
        ("one field", [("Connection", "keep-alive, Upgrade")], ["Connection"]),
        ("two fields", [("connection", "keep-alive"), ("CONNECTION", "UPGRADE")], ["Connection"]),
        ("upgrade list", [("Upgrade", "h2c, WebSocket")], ["Upgrade"]),
    ):
        c = Client(r.port)
        c.send(request(port=r.port, headers=headers, drop=drop))
        line = c.head().splitlines()[0].decode()
        said.append(f"{name}: {line};")
        right &= " 101 " in line
        c.close()
verdict(right, *said)

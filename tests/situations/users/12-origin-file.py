"""django/daphne#72, django/channels#392, mopidy/mopidy#1712: pages inside Android WebViews (Cordova) send
`Origin: file://`; whoever runs the server can let them in."""

from lib import *

out = subprocess.run(
    [command(), "settings", "--origins", "file://"], capture_output=True, text=True
)
with Run(
    "def on_message(msg, con): return msg\n", "--origins", "null", "--origins", "same-origin"
) as r:
    c = Client(r.port)
    c.send(request(port=r.port, headers=[("Origin", "file://")]))
    line = c.head().splitlines()[0].decode()
    c.close()
verdict(
    out.returncode == 0 or " 101 " in line,
    f'--origins file://: {out.returncode} {out.stderr.strip()!r}; with --origins null ("pages from files") such a page gets: {line}',
)

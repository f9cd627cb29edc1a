"""websocketd #474, websockify #541, circus #354, websockets #1517: nginx, another user, connects to the unix socket.

Input: --listen unix:PATH with the usual umask 022; user 65534 connects (needs root). Right: there is a way to allow it
(a mode or a group behind ?). Here: none but to change the umask of the whole run.
"""

from lib import *

folder = tempfile.mkdtemp(prefix="wsb-")
os.chmod(folder, 0o755)
run = Run(
    'def on_message(msg, con):\n    con.send("ok\\n")\n',
    listen=f"unix:{folder}/app.sock",
    folder=folder,
    popen={"umask": 0o022},
)
mode = oct(os.stat(f"{folder}/app.sock").st_mode & 0o777)
code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{folder}/app.sock'); s.sendall(b'x'); print(s.recv(9))"
done = subprocess.run(
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code],
    capture_output=True,
    text=True,
)
print(
    "mode of the file:",
    mode,
    "; another user:",
    (done.stdout + done.stderr).strip().splitlines()[-1],
)
asked = subprocess.run(
    [WSRAW, "settings", "--listen", f"unix:{folder}/b.sock?mode=0666"],
    capture_output=True,
    text=True,
)
print("?mode=0666:", asked.stderr.strip())
verdict(done.returncode == 0 or asked.returncode == 0, f"mode {mode}, and no setting for it")

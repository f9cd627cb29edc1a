"""gunicorn #402, #606 and others: how the handlers file is called, where it is, and what it imports.

Right: all are up. The last three are what gunicorn and uvicorn users write, and are recorded apart (unclear: features).
"""

from lib import *

OK = 'def on_message(msg, con):\n    con.send("ok\\n")\n'
ASYNC = OK.replace("def", "async def")


def check(files, workers, cwd=None, env=None):
    folder = tempfile.mkdtemp(prefix="wsb-")
    for name, text in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write(text)
    if isinstance(workers, bytes):
        workers = os.fsdecode(workers)
    try:
        run = Run(None, workers=workers, folder=folder, env=env)
    except TimeoutError as error:
        shutil.rmtree(folder)
        return str(error).strip().splitlines()[-1][-110:]
    said = run.ask(b"x", 3).decode()
    run.stop()
    return said


must = {
    "path with a space and no ASCII": check({"kü che/обработчики.py": OK}, "kü che/обработчики.py"),
    "json.py": check({"json.py": "import json\nassert json.dumps\n" + OK}, "json.py"),
    "wsraw.py": check({"wsraw.py": "from wsraw import publish\n" + OK}, "wsraw.py"),
    "my-app.v2.py": check({"my-app.v2.py": OK}, "my-app.v2.py"),
    "a:b.py": check({"a:b.py": OK}, "a:b.py"),
    "sibling module": check({"app/h.py": "import helper\n" + OK, "app/helper.py": ""}, "app/h.py"),
    "siblings queue.py, selectors.py, async": check(
        {"h.py": ASYNC, "queue.py": "", "selectors.py": ""}, "h.py"
    ),
    "siblings zmq.py, msgspec.py": check({"h.py": OK, "zmq.py": "", "msgspec.py": ""}, "h.py"),
    "reads stdin": check({"h.py": "import sys\nsys.stdin.read()\n" + OK}, "h.py"),
    "changes the folder": check({"h.py": "import os\nos.chdir('/')\n" + OK}, "h.py"),
    "BOM and CRLF": check({"h.py": "\ufeff" + OK.replace("\n", "\r\n")}, "h.py"),
    "prints umlauts with LC_ALL=POSIX": check(
        {"h.py": "print('grün')\n" + OK},
        "h.py",
        env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
}
may = {
    "file name of no UTF-8 (latin-1)": check({b"k\xfcche.py": OK}, b"k\xfcche.py"),
    "from . import helper": check(
        {"app/__init__.py": "", "app/h.py": "from . import helper\n" + OK, "app/helper.py": ""},
        "app/h.py",
    ),
    "from app import helper, in the project's folder": check(
        {"app/__init__.py": "", "app/h.py": "from app import helper\n" + OK, "app/helper.py": ""},
        "app/h.py",
    ),
}
print(json.dumps({"must": must, "may": may}, indent=1, ensure_ascii=False))
bad = [k for k, v in must.items() if v != "ok"]
verdict(not bad, f"{bad or 'all of the first kind are up'}")

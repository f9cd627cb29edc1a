"""Handlers that do what they should not. After each, the run must serve: another connection echoes within 8 s, and no
client but the culprit is disconnected. argv: names, default all."""

import time
from lib import *

H = """
import asyncio, os, sys, signal, threading, time, wsraw, json
def on_connect(inf, con): pass
def on_message(msg, con):
    d = msg["data"]
    f = globals().get("t_" + d)
    if f: return f(con)
    return d
def t_exit0(con): os._exit(0)
def t_exit3(con): os._exit(3)
def t_exit4(con): os._exit(4)
def t_sysexit(con): sys.exit(0)
def t_kbd(con): raise KeyboardInterrupt
def t_genexit(con): raise GeneratorExit
def t_stopiter(con): raise StopIteration
def t_close012(con):
    for f in (0, 1, 2): os.close(f)
    return "ok"
def t_close_all(con):
    os.closerange(0, 200)
    return "ok"
def t_sig(con):
    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); return "ok"
def t_recursion(con): return t_recursion(con)
def t_deep_state(con):
    x = []
    for _ in range(100000): x = [x]
    con.state = x
def t_selfref(con):
    x = []; x.append(x); con.state = x
def t_gen(con): return (i for i in range(3))
def t_lambda(con): return lambda: 1
def t_int(con): return 5
def t_surrogate(con): return "\\ud800"
def t_surr_close(con): con.close(4000, "\\ud800")
def t_surr_pub(con): wsraw.publish("\\ud800", b"x")
def t_bigid(con): wsraw.connection(2**70).send("x")
def t_badgroup(con): con.join(object())
def t_excl(con): wsraw.publish("g", b"x", exclude=[2**80])
def t_surr_open(con): wsraw.open_client_connection("\\ud800:1")
def t_surr_hdr(con): wsraw.open_client_connection("ws://127.0.0.1:1/", headers={"X": "\\ud800"})
def t_nan(con): wsraw.open_client_connection("127.0.0.1:1", connect_timeout=float("nan"))
def t_inf(con): wsraw.open_client_connection("127.0.0.1:1", connect_timeout=float("inf"))
def t_hugeto(con): wsraw.open_client_connection("127.0.0.1:1", connect_timeout=1e308)
def t_negstate(con): con.state = {"a": 2**64}
def t_intkey(con): con.state = {1: 2, (1,2): 3}
def t_state64(con): con.state = b"x" * 65530; return "ok"
def t_state65(con): con.state = b"x" * 65540
def t_groups(con):
    for i in range(10000): con.join(f"g{i}")
    return "ok"
def t_manysends(con):
    for i in range(300000): con.send("x")
def t_huge(con): con.send(b"x" * (65 << 20))
def t_huge60(con): con.send(os.urandom(1) * (60 << 20))
def t_closed(con):
    con.close(); con.send("after"); con.close(); con.join("x")
def t_mem(con):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
    x = []
    while True: x.append(bytearray(10 << 20))
def t_nofile(con):
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); open("/dev/null"); return "ok"
def t_threads(con):
    for _ in range(50): threading.Thread(target=time.sleep, args=(1000,)).start()   # not daemons
    return "ok"
def t_sigstop(con): os.kill(os.getpid(), signal.SIGSTOP)
def t_segv(con): import ctypes; ctypes.string_at(0)
def t_killparent(con): os.kill(os.getppid(), signal.SIGHUP); return "ok"
def t_print(con):
    for _ in range(2000): print("z" * 100000)
    return "ok"
def t_printnul(con): print("\\0\\x1b[2J\\r\\n\\ud800 x"); return "ok"
def t_stdoutclose(con): sys.stdout.close(); sys.stderr.close(); return "ok"
def t_chdir(con): os.chdir("/"); os.umask(0); return "ok"
def t_modname(con): sys.modules.clear(); return "ok"
def t_monkey(con): time.monotonic = lambda: 0; return "ok"
def t_alarm(con): signal.signal(signal.SIGALRM, lambda *a: 1/0); signal.setitimer(signal.ITIMER_REAL, 0.3, 0.1); return "ok"
def t_settrace(con): sys.setrecursionlimit(20); return "ok"
def t_callsoonexit(con): wsraw.call_soon(sys.exit, 0); return "ok"
def t_delself(con): con.__class__ = None
def t_dict(con): return {"data": "x", "type": "bogus"}
def t_final(con): return {"data": "x", "final": False}
def t_frag(con): con.send("a", final=False); con.send(b"b", "binary", True)
def t_badutf(con): con.send(b"\\xff\\xff", "text")
def t_coro(con):
    async def f(): pass
    return f()
def t_selfconn(con): pass
"""
ALL = re.findall(r"def t_(\w+)\(", H)


def case():
    names = sys.argv[1:] or ALL
    bad = []
    for name in names:
        run = Run(H, "--handler-timeout", "2s", workers=2)
        try:
            run.wait("worker 2 is ready")
            by = WS(run.port, timeout=10)
            by.send("hello")
            assert by.text() == "hello"
            gw = run.gateway_pid()
            c = WS(run.port, timeout=10)
            c.send(name)
            try:
                got = c.recv()
                if isinstance(got, bytes) and len(got) > 60:
                    got = f"{len(got)} bytes"
            except OSError as e:
                got = repr(e)
            why = ""
            t = time.monotonic()
            try:
                for i in range(30):
                    by.send(f"m{i}")
                    g = by.text()
                    if g != f"m{i}":
                        why = f"bystander got {g}"
                        break
                    time.sleep(0.05)
            except OSError as e:
                why = f"bystander {e!r}"
            if not alive(gw):
                why += " GATEWAY DIED"
            deaths = sum("is gone; its events go" in l for l in run.lines)
            tb = any("Traceback" in l for l in run.lines)
            t1 = time.monotonic()
            by.close()
            c.close()
            code = run.stop()
            stop = time.monotonic() - t1
            if code != 0:
                why += f" stop exit {code}"
            if stop > 7:
                why += f" stop took {stop:.1f}"
            print(
                f"{name:16} culprit: {got!r:.70}  deaths {deaths} bystander {t1 - t:.1f}s stop {stop:.1f}s {why}",
                flush=True,
            )
            if why:
                bad.append((name, why))
                print("\n".join(run.lines[-6:]))
        finally:
            run.close()
    verdict(bool(bad), str(bad))


main(case)

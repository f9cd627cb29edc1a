"""The unit of examples/systemd under a real systemd, with all that it forbids; and its socket unit.

Input: systemd as process 1 of a container, made of namespaces and a copy of the file system that forgets what is written.
The unit is started, reloaded, reloaded with a broken file, suspended (the watchdog), stopped in the middle of a long
handler, and started by its first client. Right: each command of systemctl ends as it should, the service answers all the
time, a stop takes as long as the handler (beyond TimeoutStopSec), and no client is refused while the service is restarted.
"""

from lib import *

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SYSTEMD = "/lib/systemd/systemd"
if os.geteuid() or not (os.path.exists(SYSTEMD) and shutil.which("unshare")):
    print("needs root, systemd and unshare")
    sys.exit(2)

work = tempfile.mkdtemp(prefix="wsb-")
os.makedirs(f"{work}/units")
for name in ("wsraw.service", "wsraw.socket"):
    text = open(f"{ROOT}/examples/systemd/{name}").read().replace("/opt/wsraw/bin/wsraw", WSRAW)
    text = text.replace("[Unit]", "[Unit]\nDefaultDependencies=no").replace(
        "ListenStream=0.0.0.0:", "ListenStream="
    )
    text = text.replace(
        "WatchdogSec=60", "WatchdogSec=4\nTimeoutStopSec=3\nEnvironment=PYTHONPATH=" + ROOT
    )
    text = re.sub("(?m)^(After|Wants)=.*", "", text)
    open(f"{work}/units/{name}", "w").write(text)
open(f"{work}/units/trial.target", "w").write("[Unit]\nDefaultDependencies=no\n")
open(f"{work}/wsraw.toml", "w").write('listen = ["127.0.0.1:8000"]\nworkers = "handlers.py:2"\n')
open(f"{work}/handlers.py", "w").write(
    'import time\ndef on_message(msg, con):\n    if msg["data"] == b"slow": time.sleep(6)\n    return msg\n'
)
open(f"{work}/client.py", "w").write(
    "import socket, sys\ns = socket.create_connection(('127.0.0.1', 8000), 20)\n"
    "s.sendall(sys.argv[1].encode()); print(s.recv(9).decode())\n"
)
open(f"{work}/begin", "w").write(f"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
R=/mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work $R
mkdir -p $R/srv/app; cp {work}/handlers.py {work}/wsraw.toml {work}/client.py $R/srv/app; chmod -R a+rX $R/srv
rm -rf $R/etc/systemd/system; mkdir $R/etc/systemd/system; cp {work}/units/* $R/etc/systemd/system
useradd -R $R -r wsraw
# Python may be installed where this user cannot look.
for place in {os.path.realpath(sys.executable)} {WSRAW} {ROOT}/wsraw/cli.py; do
  while [ $place != / ]; do chmod a+rX $R$place; place=$(dirname $place); done
done
mount -t sysfs sysfs $R/sys -o ro
for each in run tmp var/tmp dev sys/fs/cgroup; do mount -t tmpfs tmpfs $R/$each; done
mount -t proc proc $R/proc
chmod 1777 $R/tmp $R/var/tmp
mkdir $R/dev/shm $R/dev/pts $R/dev/mqueue $R/dev/hugepages
for each in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 $R/dev/${{each%:*}} c 1 ${{each#*:}}; done
mount -t devpts devpts $R/dev/pts -o newinstance,ptmxmode=0666; ln -s pts/ptmx $R/dev/ptmx
mkdir $R/sys/fs/cgroup/systemd $R/sys/fs/cgroup/unified
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
else
  mount -t cgroup cgroup -o none,name=systemd $R/sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 $R/sys/fs/cgroup/unified
fi
ip link set lo up
cd $R; pivot_root . mnt; cd /; umount -l /mnt
export container=lxc
exec {SYSTEMD} --log-target=null --unit=trial.target
""")
# A control group of its own, so that nothing of it is seen outside.
base = "/sys/fs/cgroup"
hierarchies = (
    [base]
    if os.path.exists(f"{base}/cgroup.procs")
    else [f"{base}/{name}" for name in os.listdir(base)]
)
groups = [f"{path}/wsraw-trial" for path in hierarchies]


def enter():
    for group in groups:
        try:
            os.makedirs(group, exist_ok=True)
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
        except OSError:
            # The one of cpusets wants to be set up first.
            pass


spaces = ["--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc", "--net"]
manager = subprocess.Popen(["unshare", *spaces, "bash", f"{work}/begin"], preexec_fn=enter)


def end():
    manager.kill()
    manager.wait()
    time.sleep(1)
    for group in groups:
        for path, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(path)
            except OSError as error:
                print("left:", path, error)


atexit.register(end)


def inside(line, wait=True):
    """A line of the shell in there; its exit code, its output and the seconds it took."""
    found = subprocess.run(
        ["pgrep", "-P", str(manager.pid)], capture_output=True, text=True
    ).stdout.split()
    if not found:
        print("the container has ended")
        sys.exit(2)
    began = time.time()
    flags = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"]
    p = subprocess.Popen(
        ["nsenter", "-t", found[0], *flags, "timeout", "60", "sh", "-c", line],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if not wait:
        return p
    out = p.communicate()[0].strip()
    took = time.time() - began
    print(f"{line}: {p.returncode}, {took:.1f} s{', ' + out.splitlines()[-1] if out else ''}")
    return p.returncode, out, took


def client(text="hello"):
    return inside(f"{PYTHON} /srv/app/client.py {text}")[1].endswith(text)


for _ in range(50):
    if inside("systemctl is-system-running")[1] in ("running", "degraded"):
        break
    time.sleep(0.2)
else:
    sys.exit(2)
wrong = []


def right(what, is_right):
    if not is_right:
        wrong.append(what)


show = "systemctl show wsraw --value -p"
right("start", inside("systemctl start wsraw")[0] == 0 and client())
right(
    "no privileges", "0000000000000000" in inside(f"grep CapBnd /proc/$({show} MainPID)/status")[1]
)
right("reload", inside("systemctl reload wsraw")[0] == 0 and client())
inside("cp /srv/app/handlers.py /tmp/kept; echo import > /srv/app/handlers.py")
right("refused reload", inside("systemctl reload wsraw")[0] == 1 and client())
inside("cp /tmp/kept /srv/app/handlers.py")
pid = inside(f"{show} MainPID")[1]
time.sleep(6)
right("the watchdog is fed", inside(f"{show} MainPID")[1] == pid)
inside(f"kill -STOP {pid}")
time.sleep(10)
right(
    "the watchdog",
    inside(f"{show} MainPID")[1] != pid
    and inside("systemctl is-active wsraw")[1] == "active"
    and client(),
)
slow = inside(f"{PYTHON} /srv/app/client.py slow", wait=False)
time.sleep(1.5)
took = inside("systemctl stop wsraw")[2]
right(
    "a stop waits",
    took > 3.5
    and slow.communicate()[0].strip() == "slow"
    and inside(f"{show} Result")[1] == "success",
)
inside("echo import > /srv/app/handlers.py; systemctl start wsraw; sleep 4")
right(
    "no restart in vain",
    inside(f"{show} ExecMainStatus -p NRestarts")[1].split() in (["3", "0"], ["0", "3"]),
)
inside(
    "cp /tmp/kept /srv/app/handlers.py; sed -i /listen/d /srv/app/wsraw.toml; systemctl reset-failed wsraw"
)
inside("systemctl start wsraw.socket")
right("asleep", inside("systemctl is-active wsraw")[1] != "active")
right("woken", client() and inside("systemctl is-active wsraw")[1] == "active")
many = inside(f"for i in 1 2 3 4 5 6 7 8; do {PYTHON} /srv/app/client.py c$i; done", wait=False)
inside("systemctl restart wsraw")
right("none is refused", many.communicate()[0].split() == [f"c{n}" for n in range(1, 9)])
verdict(not wrong, ", ".join(wrong))

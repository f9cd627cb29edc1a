#!/usr/bin/env bash
# Run the tests on CPython for Windows, under wine: run.sh FOLDER [TESTS…]. Those of one.txt and of two.txt
# beside each other, each in a wine of its own; or only what is named. Logs in FOLDER; exit code 1 if any fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD
mkdir -p "$1"
folder=$(realpath "$1")
shift
tests/windows/setup.sh "$folder"
# As it is installed: by its metadata pytest finds our plugin.
rm -rf "$folder"/site-packages/wsraw-*.dist-info
cp -r .venv/lib/python3*/site-packages/wsraw-*.dist-info "$folder/site-packages"

left_out=()
while read -r line; do
  case $line in '' | '#'*) ;; *::*) left_out+=("--deselect=$line") ;; *) left_out+=("--ignore=$line") ;; esac
done <tests/windows/left_out.txt

# Its standard streams must be pipes: wine's Python takes nothing else without a terminal.
python() {
  timeout -k 10 "${LIMIT:-1800}" wine "$folder/cp311/python.exe" "$@" </dev/null 2>&1 | cat
}

half() { # NAME TESTS…
  local name=$1 code=0
  shift
  export WINEPREFIX=$folder/prefix-$name WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='
  export PYTHONPATH="Z:$here;Z:$folder/site-packages"
  # Temporary files belong into the prefix: beside each other, one pytest would remove those of the other.
  # And to compile everything in each process would take longer than all else.
  unset TMPDIR TEMP TMP PYTHONDONTWRITEBYTECODE
  # The first start makes the prefix.
  [ -d "$WINEPREFIX" ] || python -c '' >/dev/null || true
  python -m pytest -p no:cacheprovider -q -rfE --tb=short --durations=15 -m 'not long' "${left_out[@]}" "$@" \
    >"$folder/$name.log" || code=$?
  # It keeps the sockets of killed processes, and would look at them for ever.
  "$(command -v wineserver || echo /usr/lib/wine/wineserver64)" -k || true
  return $code
}

if [ $# != 0 ]; then
  half some "$@" && code=0 || code=1
  cat "$folder/some.log"
  exit $code
fi
half one @tests/windows/one.txt &
one=$!
half two @tests/windows/two.txt &
two=$!
code=0
wait $one || code=1
wait $two || code=1
tail -n 40 "$folder"/one.log "$folder"/two.log
exit $code

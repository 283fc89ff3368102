# What can be done with a checkout: `make demo` to see it run, `make test` to check it.

SHELL   := /bin/bash
TARGET  := $(or $(CARGO_TARGET_DIR),target)
BIN     := $(TARGET)/release/rgunicorn
# The interpreter of the tests' and the demo's virtual environments.
PYTHON  ?= python3
VENV    := .cache/venv
DEMO    := .cache/demo
# More for pytest: make test PYTEST_ARGS='tests/lifecycle -k respawn'
PYTEST_ARGS ?=

.PHONY: help build next demo test test-rust test-system reference bench fuzz torture lint clean deb rpm wheel

help:
	@echo 'make demo    build, then serve examples/ on http://127.0.0.1:8000'
	@echo 'make test    every test (installs what is missing)'
	@echo 'make build   $(BIN), rgunicornctl and the worker module'
	@echo 'make deb     dist/rgunicorn_VERSION_ARCH.deb; make rpm and make wheel likewise'
	@echo 'make reference   manual pages, docs/settings.md and completions anew from src/settings/table.rs'
	@echo 'make bench   processor time per request, beside other servers'
	@echo 'make fuzz    ten minutes of libFuzzer for each target'
	@echo 'make torture SECONDS=60   load, reloads, broken releases, kills: what is lost?'
	@echo 'make lint    formatting and lints'

# The binary looks for the worker module beside itself, so nothing has to be installed.
build:
	@.ci/require cc=gcc
	cargo build --release -p rgunicorn -p rgunicorn-worker

# The same sources as another version, for the tests of upgrades: .cache/next.
NEXT_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)+next
next:
	RGUNICORN_VERSION=$(NEXT_VERSION) CARGO_PROFILE_DEV_DEBUG=false \
	    cargo build --quiet --target-dir $(TARGET)/next -p rgunicorn -p rgunicorn-worker
	@mkdir -p .cache/next
	@cp -u $(TARGET)/next/debug/{rgunicorn,rgunicornctl,librgunicorn_worker.so} .cache/next/

$(DEMO)/ready: examples/requirements.txt
	@.ci/require python3=python3 python3:venv=python3-venv python3:ensurepip=python3-venv
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check -r examples/requirements.txt
	@touch $@

demo: build $(DEMO)/ready
	@cat examples/flask_demo/welcome.txt
	@exec $(BIN) --chdir examples/flask_demo --python $(abspath $(DEMO))/bin/python \
	    --bind 127.0.0.1:8000 --workers 2 --access-logfile - app:app

$(VENV)/ready: tests/requirements.txt
	@.ci/require python3=python3 python3:venv=python3-venv python3:ensurepip=python3-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

test: test-rust test-system

test-rust:
	@.ci/require cc=gcc
	cargo test --workspace --quiet

# A real systemd is booted in namespaces for part of these (tests/harness/box.py): that needs root.
test-system: build next $(VENV)/ready
	@.ci/require curl=curl nginx=nginx haproxy=haproxy dpkg-deb=dpkg lintian=lintian rpmbuild=rpm rpmlint=rpmlint \
	    mandoc=mandoc zsh=zsh fish=fish logrotate=logrotate systemd-socket-activate=systemd \
	    /lib/systemd/systemd=systemd-sysv dbus-daemon=dbus nsenter=util-linux \
	    mmdebstrap=mmdebstrap /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring
	cargo build --release --quiet -p rgunicorn-torture
	RGUNICORN=$(abspath $(BIN)) TORTURE=$(abspath $(TARGET))/release/rgunicorn-torture \
	    $(VENV)/bin/python -m pytest tests $(PYTEST_ARGS)

# What is made from the table of settings and is committed; the tests say when it is stale.
reference:
	RGUNICORN_WRITE_DOCS=1 cargo test -p rgunicorn --quiet reference

# What people install, in dist/: the same programs in each. packaging/ has the recipes.
deb: build
	@.ci/require dpkg-deb=dpkg objdump=binutils readelf=binutils
	packaging/deb/build $(TARGET)/release dist

rpm: build
	@.ci/require rpmbuild=rpm objdump=binutils
	packaging/rpm/build $(TARGET)/release dist

wheel: build
	@.ci/require python3=python3 objdump=binutils
	packaging/wheel/build $(TARGET)/release dist

bench: build
	@test -x benches/run || { echo 'there is no benches/run yet' >&2; exit 1; }
	benches/run

# Ten minutes for each target, or: fuzz/run SECONDS TARGET
fuzz:
	@.ci/require g++=g++
	fuzz/run 600

# For each pool. More for tests/torture/run: make torture TORTURE_ARGS='--events reload --seed 7'
SECONDS ?= 60
TORTURE_ARGS ?=
torture: build $(VENV)/ready
	cargo build --release -p rgunicorn-torture
	RGUNICORN=$(abspath $(BIN)) TORTURE=$(abspath $(TARGET))/release/rgunicorn-torture \
	    $(VENV)/bin/python tests/torture/run --seconds $(SECONDS) $(TORTURE_ARGS)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

clean:
	cargo clean
	rm -rf .cache dist

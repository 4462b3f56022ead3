# Everything one types. `make run` and `make test` need Python 3.11+ and make, nothing else.

PYTHON ?= python3
BIN := .venv/bin
MANAGE := $(BIN)/python manage.py
# One PostgreSQL and one Redis around a command, unless DATABASE_URL and REDIS_URL are set.
WITH_SERVERS := $(BIN)/python -m iafactory.local.with_servers
RUN_READY := .venv/.installed-run
DEV_READY := .venv/.installed-dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input -c requirements.lock

.DEFAULT_GOAL := help
.PHONY: help run test check lint secrets types imports migrations deploy-check schema manifests schema-update format lock clean

help:
	@echo "make run            the whole product on http://127.0.0.1:8000  (PORT, HOST, VAR, DATABASE_URL, REDIS_URL)"
	@echo "make test           all tests on a real PostgreSQL and Redis     (ARGS=\"-k ledger -x\")"
	@echo "make chromium       install the browser that tests/browser walk through the pages with"
	@echo "make chaos          kill the running product's processes under load  (SECONDS=60, SEED)"
	@echo "make bench          requests/s, latency, CPU and memory against the targets, billing on  (ARGS=\"--quick --only whole-64\")"
	@echo "make bench-peers    install LiteLLM and Portkey into .bench/, for make bench to compare with"
	@echo "make soak           mixed traffic for long: does anything grow?  (MINUTES=10)"
	@echo "make flame-graph    where a call's time goes: rewrite docs/performance-flame.svg"
	@echo "make backup-test    back up, restore elsewhere, verify the books there"
	@echo "make check          lint, imports, secrets, translations, types, migrations, deploy-check, schema, manifests: each is a target too"
	@echo "make format         format the code and fix what ruff can fix"
	@echo "make translations-update  gather texts to translate into locale/, and compile what is there"
	@echo "make schema-update  rewrite docs/openapi.yaml"
	@echo "make lock           rewrite requirements.lock from what is installed"
	@echo "make clean          remove the virtual environment, caches and test data; var/ stays"

# exec: the signals that make passes on must reach the supervisor, not a shell.
run: $(RUN_READY)
	@STOP_WITH_PARENT=$$PPID exec $(BIN)/python -m iafactory.local.run

test: $(DEV_READY)
	@exec $(BIN)/python -m pytest $(ARGS)

SECONDS ?= 60
SEED ?=
.PHONY: chaos bench bench-peers soak flame-graph backup-test
chaos: $(RUN_READY)
	@exec $(BIN)/python -m chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(DEV_READY)
	@exec $(BIN)/python -m benchmarks.gateway $(ARGS)

bench-peers: $(DEV_READY)
	@exec $(BIN)/python -m benchmarks.peers

MINUTES ?= 10
soak: $(DEV_READY)
	@exec $(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

flame-graph: $(DEV_READY)
	@exec $(BIN)/python -m benchmarks.flame $(ARGS)

backup-test: $(RUN_READY)
	@exec $(BIN)/python -m iafactory.local.backup_test

# The browser of tests/browser, which skip without it.
.PHONY: chromium
chromium:
	@command -v chromium chromium-browser || { \
		[ "$$(id -u)" = 0 ] && SUDO= || SUDO=sudo; $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq chromium; }

check: lint imports secrets translations
	@$(WITH_SERVERS) $(MAKE) --no-print-directory types migrations deploy-check schema manifests

lint: $(DEV_READY)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

imports: $(DEV_READY)
	@$(BIN)/lint-imports --no-logo

# What git keeps or would keep. Verifying would send what was found to its provider; `password` stands in examples. The
# gateways' signature vectors and Stability's request ids are all hashes, made up for tests.
secrets: $(DEV_READY)
	@git ls-files -z --cached --others --exclude-standard > .venv/.files
	@xargs -0 $(BIN)/detect-secrets-hook --no-verify --disable-plugin KeywordDetector \
		--exclude-secrets '^password$$' --exclude-files '^tests/(data/payment_vectors|wire/stability_\w+\.response)\.json$$' < .venv/.files

# Every text marked in what is listed there is translated, and the compiled catalogues are those of the texts.
.PHONY: translations translations-update
translations: $(DEV_READY)
	@$(BIN)/python -m iafactory.local.translations check

translations-update: $(DEV_READY)
	@$(BIN)/python -m iafactory.local.translations update

types: $(DEV_READY)
	@$(WITH_SERVERS) $(BIN)/python -m mypy manage.py iafactory ratelimit billing routing dashboard benchmarks chaos

migrations: $(DEV_READY)
	@$(WITH_SERVERS) $(MANAGE) makemigrations --check --dry-run

deploy-check: $(DEV_READY)
	@IAFACTORY_ENV=production ALLOWED_HOSTS=iafactory.example PUBLIC_URL=https://iafactory.example \
		$(WITH_SERVERS) $(MANAGE) check --deploy --fail-level WARNING

schema: $(DEV_READY)
	@$(WITH_SERVERS) sh -c '$(MANAGE) spectacular --validate --fail-on-warn --file "$$VAR/openapi.yaml" || exit 1; \
		diff -u docs/openapi.yaml "$$VAR/openapi.yaml" && exit 0; \
		echo "docs/openapi.yaml is not what the code says; to accept the code: make schema-update" >&2; exit 1'

# Compose file, Kubernetes manifests, dashboards and alert rules, without a network.
manifests: $(DEV_READY)
	@$(BIN)/python -m pytest --quiet --no-header -p no:cacheprovider tests/deploy/test_manifests.py

schema-update: $(DEV_READY)
	@$(WITH_SERVERS) $(MANAGE) spectacular --validate --fail-on-warn --file docs/openapi.yaml

format: $(DEV_READY)
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

lock: $(DEV_READY)
	@{ sed -n 1p requirements.lock; $(BIN)/python -m pip freeze --disable-pip-version-check; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Python 3.11 or newer is needed and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another one: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Creating the virtual environment .venv"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(RUN_READY): requirements.txt requirements.lock | $(BIN)/python
	@echo "Installing requirements (first run and after a change only)…"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEV_READY): requirements-dev.txt requirements-observability.txt requirements.txt requirements.lock | $(BIN)/python
	@echo "Installing requirements for tests and checks (first run and after a change only)…"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $(RUN_READY) $@

# A server started by root may keep its data outside; the folder names the place.
clean:
	@for record in var-test/postgres.location var-dev/postgres.location .bench/company/postgres.location; do \
		if [ -f "$$record" ]; then rm -rf "$$(cat "$$record")"; fi; done
	@rm -rf .venv .bench var-test var-dev staticfiles .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +

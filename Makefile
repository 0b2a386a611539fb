# Everything sets itself up: Python 3.11 or newer and make are all that has to be there. `make PYTHON=python3.13 test` takes another Python.
PYTHON ?= python3
WORKERS ?= 2
PY := .venv/bin/python
PYTEST_OPTIONS := -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo cluster-demo test test-pure test-compiled lint format fuzz redteam client-suites bench bench-cluster compile crds docs chart clean
.PHONY: image test-e2e test-programs cluster cluster-down cluster-programs kind kind-down

help: ## list what can be made (this)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the locked dependencies into .venv (every target below does it first; nothing to do takes no time)
	@$(PYTHON) tools/bootstrap.py

demo: setup ## bring up a database, an identity provider and a gate, and tour them with psql; KEEP=1 leaves them up
	@$(PY) -m examples.demo.tour $(if $(KEEP),--keep)

cluster-demo: setup test-programs ## the same tour on a real cluster: chart, annotation, psql through the Service, approval by kubectl; KEEP=1 leaves it up
	@$(PY) -m examples.statefulset.tour $(if $(KEEP),--keep)

test: test-programs test-pure test-compiled test-e2e ## run every test there is, the frame walk's both as Python and compiled

test-programs: # what Kubernetes tests need, built once where Go is; a node is for root alone. Without it these tests are skipped, or fail in CI
	@bash tests/cluster/build.sh $$([ "$$(id -u)" = 0 ] && echo node || echo control-plane) >/dev/null && \
		bash tests/cluster/build.sh fake-nodes >/dev/null || echo "so no test has a Kubernetes" >&2
	@bash tests/compose/build.sh >/dev/null || echo "so the compose example isn't run" >&2
	@bash tests/databases/build.sh >/dev/null || echo "so no test has a CloudNativePG" >&2

test-pure: setup ## run every test with the plain Python modules; ARGS="..." goes to pytest
	$(PY) -m pytest $(PYTEST_OPTIONS) --junitxml=build/tests-plain.xml $(ARGS)

test-compiled: setup ## compile the hot modules and run the gate's tests again with them
	$(PY) tools/compile.py --test $(PYTEST_OPTIONS) --junitxml=build/tests-compiled.xml $(ARGS)

test-e2e: setup ## run the tests that need a cluster with a node: KUBECONFIG's, or one brought up for it, as root on Debian; ARGS="..."
	$(PY) -m pytest tests/e2e -o timeout_func_only=true --junitxml=build/tests-e2e.xml $(ARGS)

lint: setup ## check style, types, layers, file names and that generated files are current
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) tools/check_names.py
	$(PY) -m tools.write_docs --check
	$(PY) -m tools.write_crds --check
	$(PY) -m tools.write_admission --check
	$(PY) -m tools.write_chart --check
	$(PY) -m tools.write_dashboard --check
	.venv/bin/lint-imports --no-logo

format: setup ## put the code into the house's form
	$(PY) -m ruff check --fix-only --quiet
	$(PY) -m ruff format

fuzz: setup ## fuzz what reads bytes with atheris; SECONDS=20 for each of TARGETS="..."
	$(PY) -m uv run --no-project --python $(PY) --with atheris --with-editable . --with pytest --with hypothesis \
		python tests/fuzz/run.py --seconds $(or $(SECONDS),20) $(TARGETS)

redteam: setup ## attack a gate in front of Debian's PostgreSQL; CASES=DIR for other cases, ARGS="-k PATTERN --json FILE"; last line: passed, failed
	@$(PY) -m tests.redteam.program $(if $(CASES),--cases "$(CASES)") $(ARGS)

client-suites: setup ## run the drivers' own published tests directly and through a gate; SUITES="asyncpg psycopg"; last line: passed both ways, differ
	@$(PY) -m tests.client_suites.program $(SUITES) $(ARGS)

bench: setup ## measure the gate against a direct connection and pgbouncer; prints a table, writes build/bench.json
	@$(PY) tests/bench/run.py

bench-cluster: setup ## measure operator and admission on a full cluster of fake nodes; prints a table, writes build/bench-cluster.json
	@bash tests/cluster/build.sh control-plane >/dev/null && bash tests/cluster/build.sh fake-nodes >/dev/null
	@$(PY) tests/bench/cluster/run.py $(ARGS)

compile: setup ## compile the hot modules with mypyc into build/compiled (needs a C compiler and Python's headers)
	$(PY) tools/compile.py

crds: setup ## write the custom resource definitions and their reference pages from the API types
	$(PY) -m tools.write_crds

docs: setup ## write the documents that are made from code
	$(PY) -m tools.write_docs
	$(PY) -m tools.coverage_detectors
	$(PY) -m tools.write_crds

chart: setup ## write the chart's templates that are made from code: CRDs, roles, admission
	$(PY) -m tools.write_crds
	$(PY) -m tools.write_chart
	$(PY) -m tools.write_dashboard
	$(PY) -m tools.write_admission

image: setup ## make the images of gate and operator without Docker, as root on Debian; FRESH=1 with new updates, COMPILED=1, NAMES="..."
	@$(PY) -m tools.image $(if $(FRESH),--fresh) $(if $(COMPILED),--compiled) $(NAMES)

cluster-programs: ## build the test cluster's Kubernetes, and CloudNativePG, from Go modules, once: some 9 minutes, then no time
	@bash tests/cluster/build.sh node >/dev/null && bash tests/cluster/build.sh fake-nodes >/dev/null
	@bash tests/databases/build.sh >/dev/null

cluster: ## bring up a real Kubernetes of one node on this machine, as root on Debian; prints where its kubeconfig is
	@bash tests/cluster/up.sh

cluster-down: ## end it, and remove all that it made
	@bash tests/cluster/down.sh

kind: ## bring up the same through kind, where Docker runs
	@bash tests/cluster/kind.sh up

kind-down: ## end that one
	@bash tests/cluster/kind.sh down

clean: ## remove what was built; .venv and .tools too with ALL=1
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage $(if $(ALL),.venv .tools)
	find sidecar operator tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} +

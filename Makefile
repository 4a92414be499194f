# The commands of nametag. All of them work in .venv, which `make env` makes and then reuses.
PYTHON ?= python3
BIN := .venv/bin

RUNS ?= 20
SEED ?= 0
POSTS ?= 1000

ROWS ?=
ROUNDS ?= 3
BENCH ?= $(CURDIR)/build/bench

ASYNCAPI_PARSER := @asyncapi/parser@3.6.6

CONTAINERS ?= $(CURDIR)/build/containers

.PHONY: demo test check faults bench hot-path containers env services format schemas release-schemas \
  constraints rules picture clean

demo: env  ## tag the example posts and watch
	$(BIN)/nametag demo

test: env services  ## every test, the real Kafka and the real Redis included
	$(BIN)/pytest

check: env  ## format, lint, types, import rule and unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses auto -m "not slow" tests/unit

faults: env services  ## kill, stop and cut off what the workers lean on; RUNS, SEED and POSTS say how much
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --runs $(RUNS) --seed $(SEED) --posts $(POSTS)

bench: env services  ## how fast it is, in 15 minutes; ROWS says what is measured, ROUNDS how often, BENCH where the table goes
	PYTHONPATH=. $(BIN)/python -m tests.benchmarks $(ROWS) --rounds $(ROUNDS) --out $(BENCH)

hot-path: env  ## keep the counts of the hot path as they are now, which its test compares with
	PYTHONPATH=. $(BIN)/python -m tests.benchmarks.hot_path

containers: env  ## build the images and try the compose file on an engine of Debian's; as root; CONTAINERS is its folder
	@$(call need,dockerd,docker.io iptables,install Debian's docker.io)
	@$(call need,docker-compose,docker-compose,install Debian's docker-compose)
	@$(call need,debootstrap,debootstrap,install it for the stand-ins of base images)
	PYTHONPATH=. $(BIN)/python -m tests.containers $(CONTAINERS)

env: .venv/.made  ## the environment alone

# uv resolves and links from its cache: seconds, where pip takes minutes for torch's 5.5 GB. Compiling takes one
# more, once; without it every process takes ten seconds to import torch, where Python may not write beside it.
.venv/.made: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

services: env  ## what the tests need and the machine lacks
	@$(call need,redis-server,redis-server,install it or set NAMETAG_TEST_REDIS)
	@$(call need,mvn,maven openjdk-17-jre-headless,install Maven and Java 17 or set NAMETAG_TEST_KAFKA)
	@$(call need,promtool,prometheus,install Prometheus for the test of the alerts)
	@$(call need,chromium,chromium,install it for the test of the page of errors)
	@$(call need,node,nodejs,install Node 18 or later for the tests that read events in JavaScript)
	@$(call need,npm,npm,install it for the test of the AsyncAPI document)
	@test -d .node/node_modules/@asyncapi/parser || { command -v npm >/dev/null && npm install --prefix .node \
	  --silent --fetch-retries=4 --no-save --ignore-scripts --no-audit --no-fund $(ASYNCAPI_PARSER); } \
	  || echo "$(ASYNCAPI_PARSER) is missing: the test of the AsyncAPI document can't run"

# A command, Debian's packages of it, and what to do where they can't be installed.
define need
command -v $(1) >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(2); } \
  || echo "$(1) is missing: $(3)"
endef

format: env  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: env  ## write the JSON Schemas and the AsyncAPI document anew from the code
	$(BIN)/python -m consumers.messages

release-schemas: schemas  ## make the current schemas those that later ones may not break
	mkdir -p tests/unit/released_schemas && cp consumers/schemas/*.json tests/unit/released_schemas/

constraints: env  ## pin what .venv holds now
	{ sed -n '/^#/p' constraints.txt; $(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable \
	  | grep -Ev '^(pip|setuptools|uv|nvidia|triton|cuda)'; } > constraints.new && mv constraints.new constraints.txt

RULES := deploy/kubernetes/components/prometheus-operator/rules.yaml

rules:  ## copy the alerts into the Prometheus Operator's form
	{ sed '/^spec:/q' $(RULES); sed -n '/^groups:/,$$ s/./  &/p; /^$$/p' deploy/prometheus/alerts.yml; } > rules.new \
	  && mv rules.new $(RULES)

picture: env  ## draw the README's picture of the demo
	$(BIN)/python worker/examples/draw.py

clean:  ## remove what was made, the environment included
	rm -rf .venv .node demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Every target sets up what it needs in .venv; a second call reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch is asked for by its exact version first: a range would pull CUDA packages.
TORCH := torch==2.13.0
# Tests are collected once, then three workers are forked; a file's tests stay with one, so that the
# servers they share start once. Bytecode is kept, also where the environment says otherwise.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --forks 3
TYPESCRIPT := clients/typescript
NODE_MODULES := $(TYPESCRIPT)/node_modules/.package-lock.json
# Which tests `test` and `check` run; `.ci/run` runs the slow ones as well.
TIER ?= not gpu and not slow

.PHONY: demo serve test test-deps check format docs docs-site pictures bench proof docker-check clients sbom release-check dist clean

$(VENV)/.run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable . --constraint constraints.txt
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

demo: $(VENV)/.run  ## both workloads over HTTP, tables and plots in demo-out/
	mkdir -p demo-out
	$(BIN)/bandexa simulate synthetic --seeds 2 --json demo-out/synthetic.json --plot demo-out/synthetic.png
	$(BIN)/bandexa simulate mnist --horizon 1500 --json demo-out/mnist.json --plot demo-out/mnist.png
	@echo "Plots and figures: demo-out/"

serve: $(VENV)/.run  ## the service on http://127.0.0.1:8080
	$(BIN)/bandexa serve --data-dir bandexa-data

test: $(VENV)/.dev  ## the test suite; what needs a missing program is skipped
	$(PYTEST) -m '$(TIER)' tests

test-deps: $(VENV)/.dev  ## installs the programs that some tests need, on Debian
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get update -q
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install -qy --no-install-recommends \
		$$($(BIN)/python -m tests.fixtures.system_packages)
	$(MAKE) $(NODE_MODULES)

check: $(VENV)/.dev  ## format, lint, types, import rules, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m '$(TIER)' tests

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.run  ## the reference pages, from the code
	$(BIN)/python -m docs.reference

docs-site: $(VENV)/.dev  ## the documentation as a site, in site-out/; a link that leads nowhere fails
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site docs site-out
	@echo "Open site-out/index.html; it needs no network."

pictures: $(VENV)/.dev  ## the documentation's pictures of the dashboard; needs chromium
	PICTURES=docs/images $(BIN)/python -m pytest -q -m slow tests/observe/dashboard/test_pictures.py

bench: $(VENV)/.run  ## every figure with a target, in one table (wrk is used where it is installed)
	$(BIN)/python -m benchmarks all --out bench-out

proof: $(VENV)/.dev  ## about three hours of kills, power loss, damage, hostile requests and load
	$(BIN)/python -m benchmarks faults --json bench-out/faults.json
	$(BIN)/python -m benchmarks power_loss --json bench-out/power_loss.json
	$(BIN)/python -m benchmarks damage --json bench-out/damage.json
	$(BIN)/python -m benchmarks evaluation --json bench-out/evaluation.json
	$(BIN)/python -m benchmarks lift --json bench-out/lift.json
	$(BIN)/python -m benchmarks challengers --json bench-out/challengers.json
	$(BIN)/python -m benchmarks clocks --json bench-out/clocks.json
	$(BIN)/python -m benchmarks hostile --json bench-out/hostile.json
	$(BIN)/python -m benchmarks hostile_objects --json bench-out/hostile_objects.json
	$(BIN)/python -m benchmarks hostile_personalizer --json bench-out/hostile_personalizer.json
	$(BIN)/python -m benchmarks imports --json bench-out/imports.json
	$(BIN)/python -m benchmarks changes --json bench-out/changes.json
	$(BIN)/python -m benchmarks many_bandits --json bench-out/many_bandits.json
	$(BIN)/python -m benchmarks slow_peers --json bench-out/slow_peers.json
	$(BIN)/python -m benchmarks bodies --json bench-out/bodies.json
	$(BIN)/python -m benchmarks client --json bench-out/client.json
	$(BIN)/python -m benchmarks workers --json bench-out/workers.json
	$(BIN)/python -m benchmarks database --json bench-out/database.json
	$(BIN)/python -m benchmarks soak --json bench-out/soak.json
	$(BIN)/python -m benchmarks dashboard --json bench-out/dashboard.json

docker-check: $(VENV)/.dev  ## checks the chart; builds and runs the image without a container engine, as root on Debian
	$(BIN)/python -m docker.chart --check
	$(BIN)/python -m docker.check

$(NODE_MODULES): $(TYPESCRIPT)/package.json $(TYPESCRIPT)/package-lock.json
	npm ci --prefix $(TYPESCRIPT) --no-audit --no-fund
	touch $@

clients: $(VENV)/.run $(NODE_MODULES)  ## the TypeScript client: its types from the API, built, packed in dist
	$(BIN)/python -m docs.openapi | node $(TYPESCRIPT)/tools/types.mjs
	node $(TYPESCRIPT)/tools/build.mjs
	mkdir -p dist
	cd $(TYPESCRIPT) && npm pack --pack-destination ../../dist

# What a user's installation has, under the pinned versions, with an SBOM by CycloneDX.
sbom: $(VENV)/.dev  ## dist/bandexa.cdx.json: all that an installation of the server has (CycloneDX)
	$(BIN)/python -m pip install --quiet --editable '.[release]' --constraint constraints.txt
	rm -rf build/sbom
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	build/sbom/bin/python -m pip install --quiet --disable-pip-version-check . --constraint constraints.txt
	build/sbom/bin/python -m pip uninstall --quiet --yes pip
	mkdir -p dist
	$(BIN)/cyclonedx-py environment build/sbom/bin/python --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file dist/bandexa.cdx.json
	rm -rf build/sbom

release-check: $(VENV)/.dev $(NODE_MODULES)  ## before a release: API, links, licences, SBOM, alerts, clients, page
	$(BIN)/python -m docs.openapi | node $(TYPESCRIPT)/tools/lint.mjs
	$(BIN)/python -m docs.openapi | node $(TYPESCRIPT)/tools/types.mjs --check
	$(MAKE) docs-site
	$(BIN)/python -m docs.licences --check
	promtool check rules docker/monitor/alerts.yml
	promtool test rules docker/monitor/alerts.test.yml
	REQUIRE_SYSTEM_PACKAGES=1 $(PYTEST) -m 'not gpu' tests/conformance tests/docker/test_monitoring.py \
		tests/docs/test_licences.py tests/observe/dashboard/test_accessible.py
	$(MAKE) sbom

dist: $(VENV)/.dev  ## wheels and source archives of server and client, checked in clean environments
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist bandexa_client
	$(BIN)/python .ci/check_dist.py dist $(TORCH)

clean:
	rm -rf $(VENV) build dist demo-out bench-out *.egg-info bandexa_client/*.egg-info $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/dist

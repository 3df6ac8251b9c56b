# `make demo` and `make test` set up .venv by themselves; a second call does not install again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
OLDEST := .venv-oldest
READY := $(VENV)/.ready
# What `make test COVERAGE=1` adds: which lines run, and how many percent of them have to.
COUNTED := --cov --cov-report=term:skip-covered --cov-fail-under=95
LABS_READY := $(VENV)/.ready-labs
ELSEWHERE := $(or $(TMPDIR),/tmp)/cai-wheel
# Of those that pyenv keeps, else the one that everything else uses.
NEWEST_PYTHON ?= $(lastword $(PYTHON) $(shell ls -d $(HOME)/.pyenv/versions/3.1[1-9].*/bin/python3 2> /dev/null | sort -V))
DOCS_READY := $(VENV)/.ready-docs
LABS := out/labs
WHEELS := dist/.built
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

# The tests start many processes; each would compile the package again if bytecode were not kept.
export PYTHONDONTWRITEBYTECODE :=
LOOPS := inference/kernels/native/loops.so

.PHONY: demo test oldest campaigns native lint format types notebooks browser docs labs labs-test wheel bench clean

demo: $(READY)  ## compare the backends on the bridge, and save the pictures
	$(BIN)/cai compare bridge --out out/bridge

test: $(READY)  ## every test but the notebooks, the labs, the browser and the campaigns (COVERAGE=1 counts lines that run)
	$(BIN)/python -m pytest -n auto --dist worksteal $(if $(COVERAGE),$(COUNTED))

oldest: $(OLDEST)/.ready  ## a part of the tests with the oldest versions of what setup.cfg asks for
	$(OLDEST)/bin/python -m pytest -n auto tests/models/zoo tests/models/processes tests/models/rewards tests/cai/studies \
		tests/cai/pictures tests/cai/test_cli_names.py tests/models/environments tests/inference/learning/test_networks.py \
		tests/cai/explorer tests/cai/tasks tests/cai/inverse/test_bayes.py tests/inference/learning/test_events.py

campaigns: $(READY)  ## the laws over many more random cases, some of them large
	$(BIN)/python -m pytest -n auto --dist worksteal -m campaign

native: $(READY)  ## build the C++ loops in place; installing does this, too
	$(BIN)/python setup.py --quiet build_ext --inplace

lint: $(READY)  ## .pre-commit-config.yaml runs the same before each commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy does not see that cai.models lies in models/, so it reads an installed copy.
types: $(READY)
	rm -rf build/types && mkdir -p build/types
	CXXFLAGS=-O0 $(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/types .
	cp setup.cfg build/types/
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy -p cai

notebooks: $(READY)  ## run every notebook of tutorials/ from top to bottom
	$(BIN)/python -m pytest -m notebooks

browser: $(READY)  ## move the sliders of the page in headless Chromium, where chromedriver is installed
	$(BIN)/python -m pytest -m browser -rs

docs: $(DOCS_READY)  ## build the site in out/docs; nothing of it comes from another host, and warnings are errors
	$(BIN)/python -m docs --out out/docs

# A course folder of nbgrader: the sources, the student release made of them, and folders for what comes back. Beside the
# released notebooks lies what students install instead of a clone, which holds the solutions. nbgrader finds a helper program
# by PATH.
labs: $(LABS_READY) $(WHEELS)  ## a course in out/labs, with what students get in out/labs/release (make labs LABS=DIR for another place)
	rm -rf "$(LABS)/release"
	mkdir -p "$(LABS)/source" "$(LABS)/release" "$(LABS)/submitted" "$(LABS)/autograded"
	cp -r tutorials/labs/lab* "$(LABS)/source/"
	cp tutorials/labs/nbgrader_config.py "$(LABS)/"
	cd "$(LABS)" && for lab in source/lab*; do \
		PATH="$(CURDIR)/$(BIN):$$PATH" nbgrader generate_assignment --force --log-level=WARN $$(basename $$lab) || exit 1; \
	done
	$(BIN)/python tutorials/labs/handout.py "$(LABS)/release" dist
	@ls -d "$(LABS)"/release/*

labs-test: $(LABS_READY)  ## grade solutions, untouched labs and typical mistakes with nbgrader
	$(BIN)/python -m pytest -n auto -m labs

# A clean build: the source distribution, and the wheel that is made of it alone. The wheel is installed into an empty
# environment outside the tree, with the newest Python that is here; there the command line must run, and the tests that the
# source distribution brings along.
wheel: $(WHEELS)
	$(BIN)/python -m twine check --strict dist/*.whl dist/*.tar.gz
	rm -rf "$(ELSEWHERE)" && $(NEWEST_PYTHON) -m venv "$(ELSEWHERE)"
	"$(ELSEWHERE)/bin/pip" install --quiet --constraint constraints.txt torch
	"$(ELSEWHERE)/bin/pip" install --quiet --constraint constraints.txt dist/*.whl pytest
	cd "$(ELSEWHERE)" && ./bin/python --version && ./bin/cai compare lottery --json
	tar -xzf dist/*.tar.gz -C "$(ELSEWHERE)"
	cd "$(ELSEWHERE)"/control_as_inference-* && ../bin/pytest tests/models/processes tests/models/zoo tests/cai/tasks
	rm -rf "$(ELSEWHERE)"

bench: $(BENCH)/.ready  ## speed and memory beside other libraries (10 to 15 minutes on an idle machine); see out/benchmarks
	$(BENCH)/bin/python -m benchmarks --out out/benchmarks
	$(BENCH)/bin/python -m benchmarks.road --out out/benchmarks/road.json
	$(BENCH)/bin/python -m benchmarks.dense --out out/benchmarks/dense.json
	$(BENCH)/bin/python -m benchmarks.filtering --out out/benchmarks/filtering.json
	$(BENCH)/bin/python -m benchmarks.planning --out out/benchmarks/planning.json
	$(BENCH)/bin/python -m benchmarks.gaussian --out out/benchmarks/gaussian.json
	$(BENCH)/bin/python -m benchmarks.environments --out out/benchmarks/environments.json
	$(BENCH)/bin/python -m benchmarks.learning --out out/benchmarks/learning.json

clean:
	rm -rf $(VENV) $(BENCH) $(OLDEST) $(LOOPS) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache

# dist/any holds the wheel without native loops, for platforms other than this; `false` is a compiler that always fails.
$(WHEELS): $(READY) README.md MANIFEST.in $(shell find cai models inference -name '*.py')
	rm -rf dist
	$(BIN)/python -m build --no-isolation > /dev/null
	CXX=false $(BIN)/python -m build --no-isolation --wheel --outdir dist/any > /dev/null
	touch $(WHEELS)

# Torch first and pinned: unpinned it may bring gigabytes that a CPU has no use for.
$(READY): setup.cfg setup.py pyproject.toml constraints.txt $(wildcard inference/kernels/native/cpp/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation --editable '.[notebooks,bayes,explore,tensorboard,dev]'
	@test -e $(LOOPS) || echo "The native loops were not built (no C++ compiler?): cai computes with torch alone."
	touch $(READY)

# nbgrader brings a whole Jupyter server, which nothing else here needs.
$(LABS_READY): $(READY)
	$(PIP) --no-build-isolation --editable '.[labs,notebooks,dev]'
	touch $(LABS_READY)

$(DOCS_READY): $(READY)
	$(PIP) --no-build-isolation --editable '.[docs,notebooks,dev]'
	touch $(DOCS_READY)

# imitation and what it needs go in without their dependencies: it asks for gymnasium 0.29, and its tabular recursion does
# not use it. Nor does a step of pytorch_mppi use what it asks for.
$(BENCH)/.ready: setup.cfg setup.py pyproject.toml constraints.txt constraints-bench.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --constraint constraints.txt torch
	$(BENCH)/bin/pip install --quiet --constraint constraints.txt setuptools wheel
	$(BENCH)/bin/pip install --quiet --constraint constraints-bench.txt --no-build-isolation --editable '.[bench]'
	$(BENCH)/bin/pip install --quiet --constraint constraints-bench.txt --no-deps imitation seals stable-baselines3 \
		pytorch_mppi arm_pytorch_utilities pytorch_seed
	touch $(BENCH)/.ready

# The pins of constraints.txt, but the oldest versions of what setup.cfg names.
$(OLDEST)/.ready: setup.cfg setup.py pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	awk -F == 'NR == FNR {oldest[tolower($$1)]; print; next} !(tolower($$1) in oldest)' \
		constraints-oldest.txt constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt setuptools wheel pytest pytest-xdist
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt --no-build-isolation \
		--editable '.[bayes,dask,explore,notebooks,tensorboard]'
	touch $(OLDEST)/.ready

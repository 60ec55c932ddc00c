# make demo: the main job on built-in scenes, in minutes.   make test: lint, types, tests.   make docs: the site, in site/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# uv installs in a third of pip's time, and like here leaves compiling to the first import. pip steps in where uv does not reach
# the packages, for instance because an index is named in pip's own configuration alone.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
INSTALL = $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt $(1) || $(PIP) $(1)

# Where this is set, each of the many processes that the tests start would compile torch and its kin anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test mutants docs notebooks format clean

demo: $(VENV)/.installed
	$(BIN)/segdistill demo --output demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check --no-fix .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	# While one core checks types, the other compiles what the tests import, once for both of their processes.
	$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 & $(BIN)/mypy && wait
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow and not real_data"

# make mutants PART=methods: what the tests of a part would not notice; CONTRIBUTING explains it.
mutants: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/mutants.py $(PART)

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Runs the notebooks of the tutorials and stores their outputs in them.
notebooks: $(VENV)/.installed-dev
	$(BIN)/python docs/build/notebooks.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(call INSTALL,--editable .)
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(call INSTALL,--editable '.[dev]')
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV)

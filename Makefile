# Two commands for a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test browser notebooks bench readme history clean

demo: $(VENV)/installed
	$(RUN) -m calibration demo

test: $(VENV)/installed
	$(RUN) -m pytest

# Looks at the HTML pages in a real browser; says so and skips where there is none.
browser: $(VENV)/installed
	$(RUN) -m pytest -m browser -rs

# Executes all notebooks, and keeps their outputs; the quick ones are also executed by `make test`.
notebooks: $(VENV)/installed
	for book in notebooks/*.py; do $(RUN) -m jupytext --quiet --to ipynb --execute $$book || exit 1; done

bench: $(VENV)/installed
	for script in benchmarks/*.py; do $(RUN) $$script || exit 1; done

# torch is pinned in constraints.txt, so that a machine without CUDA keeps its CPU build and repeats the same install.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

readme: $(VENV)/installed
	$(RUN) -m calibration readme calibration/data/cpu-2-ranks
	$(RUN) -m calibration tables
	cp calibration/data/cpu-2-ranks/cluster-30MB-per-s.yaml sim/clusters/cpu-2-ranks.yaml

# Predictions beside runs, in small; fails only if a run is not what its schedule means.
history: $(VENV)/installed
	$(RUN) -m calibration history --out out/history.jsonl

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .hypothesis

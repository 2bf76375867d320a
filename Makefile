# What a person and CI call. Needs make, a POSIX shell, Python 3.11 or newer with pip, and package indexes.
# Written for GNU make 3.81 (macOS) and newer; another Python: make PYTHON=python3.13 quickstart

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
STUDY = studies/quickstart.yaml
# Several workers on few cores: one thread each, or they get into each other's way.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 VECLIB_MAXIMUM_THREADS=1
# uv from the PATH if it is there and not too old, else our own copy (`pip install --target` also works on a Python that its
# system manages, and changes nothing there).
FIND_UV = uv=uv; uv pip install --help 2>/dev/null | grep -q -e --group || uv=.venv-uv/bin/uv; \
	test "$$uv" = uv || test -x "$$uv" || { echo "installing uv into .venv-uv"; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .venv-uv uv; } || exit 1

# Where Python may not keep compiled files, every start of a command would compile PyTorch anew (8 s): then once, here.
COMPILE = $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

.PHONY: help quickstart setup dev test testbed lint format types docs proof bench constraints clean distclean

help:
	@echo "make quickstart   set up, then train and compare the models of $(STUDY)"
	@echo "make test         set up, then run the tests (one of them: make test ARGS='tests/cli -k plan')"
	@echo "make lint types docs   the other checks of CI;   make format   let ruff rewrite the layout"
	@echo "make testbed      build (once) and start a Kubernetes on this machine, for tests; prints its kubeconfig"
	@echo "make proof        the slow tests: killed runners, long runs"
	@echo "make bench        measure against neighbours"
	@echo "make constraints  compile constraints.txt anew from pyproject.toml"
	@echo "make clean        remove what builds made;   make distclean   the environment too"

quickstart: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; set -e; \
	shoal run $(STUDY); \
	report=`shoal report $(STUDY)`; \
	echo; shoal results $(STUDY); \
	echo; echo "The report: $$report"

setup: $(VENV)/.with-earth

dev: $(VENV)/.with-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Shoal needs Python 3.11 or newer; $(PYTHON) is older or missing. Another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(FIND_UV); "$$uv" venv --quiet --python $(PYTHON) $(VENV)

# The stamps make a second call quick. An editable install sees changes of src/ by itself.
$(VENV)/.with-earth: pyproject.toml constraints.txt $(BIN)/python
	@$(FIND_UV); echo "installing Shoal and its applications into $(VENV) (PyTorch is large: minutes on a slow line)"; \
	"$$uv" pip install --quiet $(COMPILE) --python $(BIN)/python -c constraints.txt -e '.[earth]'
	@touch $@

$(VENV)/.with-dev: $(VENV)/.with-earth
	@$(FIND_UV); "$$uv" pip install --quiet $(COMPILE) --python $(BIN)/python -c constraints.txt -e '.[earth,s3]' --group dev --group docs
	@touch $@

test: dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not chaos" $(ARGS)

proof: dev
	$(ONE_THREAD) $(BIN)/python -m pytest -m "slow or chaos" $(ARGS)

testbed: dev
	$(BIN)/python -m testbed build
	@$(BIN)/python -m testbed start

lint: dev
	$(BIN)/ruff check src tests bench docs testbed
	$(BIN)/ruff format --check src tests bench docs testbed

format: dev
	$(BIN)/ruff check --fix src tests bench docs testbed
	$(BIN)/ruff format src tests bench docs testbed

types: dev
	$(BIN)/mypy

# Not --quiet: that would hide the warnings from --strict too.
docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: dev
	$(BIN)/python bench/run.py $(ARGS)

# Universal: one file for Linux and macOS, all Pythons from 3.11 on.
constraints:
	@$(FIND_UV); "$$uv" pip compile pyproject.toml --all-extras --group dev --group docs --universal --python-version 3.11 \
	--no-header --no-annotate --no-emit-index-url --quiet $(ARGS) -o constraints.txt

clean:
	rm -rf site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

distclean: clean
	rm -rf $(VENV) .venv-uv

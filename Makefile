# make demo   install, then compare the methods on the embedded model
# make test   install with the tools for development, check the style, run the tests
# make browser  Chromium from Debian's packages (as root), with which the tests open the report page; else they skip that
# make clean  remove the virtual environment and what tools leave behind
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: demo test browser clean

demo: $(VENV)/.installed
	$(BIN)/harness run --method sso,dpo,ipo,self-rewarding --name demo --jobs 2

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

browser:
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends chromium chromium-driver; }

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are older than these files when dependencies have changed: then pip runs again.
$(VENV)/.installed: EXTRA :=
$(VENV)/.installed-dev: EXTRA := [dev]
$(VENV)/.installed $(VENV)/.installed-dev: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing harness$(EXTRA) into $(VENV) with the versions of constraints.txt (about 2 minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".$(EXTRA)" | awk ' \
		/^Collecting/ && ++n % 20 == 0 { print "  " n " packages found"; fflush() } \
		/^Installing collected/ { print "  installing them"; fflush() }'
	@touch $@

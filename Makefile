# make demo: the main job on the embedded default.  make test: all checks and tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready

# A virtual environment holds absolute paths: after the checkout has moved it is made again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

.PHONY: demo test quick lint bench lock

demo: $(READY)
	$(BIN)/aigc run digits-gan

test: lint
	$(BIN)/pytest --numprocesses 2 --dist worksteal

quick: $(READY) # the fast core of the tests
	$(BIN)/pytest --numprocesses 2 -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.growth

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@test '$(CURDIR)' = "$$(cat $(READY) 2>/dev/null)" || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@printf '%s' '$(CURDIR)' > $(READY)

lock: # write down what this environment has installed, platform-bound packages with their platform
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip \
		| sed -E '/^(nvidia|cuda|triton)/ s/$$/ ; sys_platform == "linux" and platform_machine == "x86_64"/' > requirements.lock
	echo 'async-timeout==5.0.1 ; python_full_version < "3.11.3"' >> requirements.lock # which redis, and so Prefect, needs there

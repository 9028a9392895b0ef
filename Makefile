# The targets are the README's commands. Everything is installed into .venv, from constraints.txt.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check
RUN = runs/digits
WORKERS ?= 2
# Tests of what a lab machine installs: they need a runtime, and neither torch nor onnx.
WHEEL_TESTS = tests/test_shelf.py tests/test_detect.py tests/test_bundle.py tests/test_ledger.py \
	tests/test_results.py tests/test_validating.py tests/test_lab_validation.py tests/test_surface.py tests/records \
	tests/devices/test_python38.py $(addprefix tests/cli/test_,main.py logs.py doctor.py profiles.py targets.py \
	validate.py bundle.py project.py settled.py init.py)

.PHONY: setup fit test lint docs wheel wheel-test test-pythons zoo clean

setup: .venv/installed

# Newer than what it depends on: the second call does nothing, a changed pin installs again.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "The pinned packages need Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --editable '.[fit,openvino,rtx,report,mlflow,examples,hf,docs,dev]'
	@touch $@

# Starts over when a run is there: `edgeprune fit ... --resume` would go on with it instead.
fit: setup
	@rm -rf $(RUN)
	.venv/bin/edgeprune fit examples/digits.py --target local --out $(RUN)

# A file's tests stay together: they share what a fixture made once. Files begin in the order of tests/conftest.py.
# A thread each, or the workers' own threads would wait for one another.
test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The site of docs/ in build/site; a warning, such as a link to nothing, is an error.
docs: setup
	.venv/bin/zensical build --config-file mkdocs.yml --clean --strict

# The wheel as a lab machine installs it, with one runtime and no torch: on this Python, and on the others that are
# declared, where they are here.
wheel-test: wheel
	TESTS="$(WHEEL_TESTS)" .ci/on-python $(PYTHON)

test-pythons: wheel
	TESTS="$(WHEEL_TESTS)" .ci/on-python 3.10 3.12 3.13

wheel: setup
	@rm -rf build/wheel
	.venv/bin/python -m build --outdir build/wheel .

# The table of docs/coupling.md: 39 architectures, beside Torch-Pruning (about half an hour).
zoo: setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.zoo

clean:
	rm -rf .venv build dist runs

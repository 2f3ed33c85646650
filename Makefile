# A fresh machine needs `make demo` and `make test`; everything else is for those who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
BENCHMARK ?= benchmark-results
SOAK ?= soak
# A process a core, one thread each: tiny networks are slower on two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile
PEERS ?=
WEIGHTS ?= pretrained
CARRY ?= pretrained-gpu.pt

# What checks a GPU: any Python with torch for CUDA and semraft's requirements; its options, as "--pairs FOLDER".
GPU_PYTHON ?= $(or $(wildcard $(BIN)/python),$(PYTHON))
GPU_CHECK ?=

.PHONY: setup demo weights weights-gpu test test-all test-processors soak benchmark gpu-check docs lint type fmt golden clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "semraft needs Python 3.11 to 3.13, this is " + sys.version'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Compiles the CPU loops, once an installation, in a few steps on the smallest frames.
	$(BIN)/semraft train world-signed-distance --profile --num-updates 1 --optim.batch 1 \
		--data.world.size 64 72 --data.crop 64 64 > /dev/null
	touch $@

# What has to be beaten, then the study of the world: its runs share the cores, its report is the last word.
demo: setup
	rm -rf $(DEMO)/study.json $(DEMO)/jobs $(DEMO)/runs
	$(BIN)/semraft evaluate zero constant farneback dis --dataset world --pairs 200
	$(BIN)/semraft study run world --out $(DEMO) --jobs 3

# Pre-training from scratch: some 20 hours of a core; stop it whenever, the same command goes on.
weights: setup
	$(BIN)/python benchmarks/pretrain.py --out $(WEIGHTS) --milestone-minutes 15

# Eight minutes of a GPU at a time, on from the file CARRY if it is there (docs/gpu.md).
weights-gpu:
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/pretrain.py --chain gpu --out $(WEIGHTS) --minutes 8 --carry $(CARRY)

test: setup
	$(PYTEST)

test-all: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	$(PYTEST) -m 'slow or not slow' --hypothesis-profile default

# The tests that depend on arithmetic, computed as other processors would: docs/processors.md.
test-processors: setup
	$(BIN)/python -m tests.processors

# Hours: trainings and studies killed and stopped at random instants; the same command goes on (docs/reliability.md).
soak: setup
	$(BIN)/python benchmarks/soak.py kills --count 100 --out $(SOAK)
	$(BIN)/python benchmarks/soak.py stops --count 50 --out $(SOAK)
	$(BIN)/python benchmarks/soak.py workers --count 10 --out $(SOAK)
	$(BIN)/python benchmarks/soak.py study --count 10 --out $(SOAK)
	test "$$(id -u)" -ne 0 || $(BIN)/python benchmarks/soak.py disks --count 10 --out $(SOAK)
	$(BIN)/python -m tests.mutations --count 20000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Half an hour on a quiet machine; the tables go to BENCHMARK, paths of peers into PEERS (--official PATH).
benchmark: setup
	mkdir -p $(BENCHMARK)
	$(BIN)/python benchmarks/peers.py $(PEERS) --markdown $(BENCHMARK)/peers.md
	$(BIN)/python benchmarks/scaling.py --markdown $(BENCHMARK)/scaling.md
	$(BIN)/python benchmarks/data_loading.py --markdown $(BENCHMARK)/data.md

# Eight minutes where a GPU is at hand (docs/gpu.md).
gpu-check:
	PYTHONPATH=src $(GPU_PYTHON) -m benchmarks.gpu_check --out gpu-check $(GPU_CHECK)

# The site, into site/; a dead link fails.
docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --clean --strict

golden: setup
	$(BIN)/python -m pytest tests/golden --update-golden

clean:
	rm -rf $(VENV) build dist $(DEMO) runs

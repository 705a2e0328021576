# Each target only calls `hscode` or a tool; `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
HOME_DIR ?= .hscode
# `make TORCH=cpu ...` takes PyTorch's CPU build (about 5 GB less than PyPI's default, the CUDA build).
TORCH  ?=
DATA ?=
NOMENCLATURE ?=
CONFIG ?=
export PYTHONDONTWRITEBYTECODE :=

# Images: REGISTRY goes before their names, TAG after; INDEX_URL and TORCH_INDEX_URL are package indexes for pip, the second
# one for torch alone (PyTorch's CPU wheels make the training image a third of its size).
REGISTRY ?=
TAG ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo dev)
DOCKER ?= docker
BASE_IMAGE ?= python:3.11-slim
INDEX_URL ?=
TORCH_INDEX_URL ?=
IMAGES := serving control training mlflow
dockerfile_serving := serving/Dockerfile
dockerfile_control := serving/control/Dockerfile
dockerfile_training := components/Dockerfile
dockerfile_mlflow := manifests/images/mlflow/Dockerfile
image = $(if $(REGISTRY),$(REGISTRY)/)hscode/$(1):$(TAG)

.PHONY: help install run loop test test-here test-cluster test-all fast lint compile images push manifests kind-up kind-down clean

help:
	@echo 'make run      run the pipeline on the shipped sample: train, register, deploy, ask three questions'
	@echo '              DATA=FILE NOMENCLATURE=FILE takes your own rows, CONFIG=FILE your settings'
	@echo 'make loop     the whole loop in some minutes: train, serve, shift, alarm, retrain, canary, promotion (docs/loop.md)'
	@echo 'make test     lint, types and tests, some of them on ../shared/cluster (make fast: the quick ones; make test-all: all)'
	@echo 'make compile  the pipelines as files for Kubeflow, in dist/pipelines'
	@echo 'make images   the images, REGISTRY=… TAG=… (make push hands them to the registry)'
	@echo 'make manifests  the overlays as kubectl renders them, in dist/manifests'
	@echo 'make kind-up  a kind cluster with all that hscode runs on (make kind-down removes it)'
	@echo 'make clean    remove what was built (not the state in $(HOME_DIR))'

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt \
		$(if $(TORCH),--torch-backend $(TORCH)) --editable '.[serving,control,training,encoder,pipelines,dev]'
	touch $@

install: $(VENV)/installed

run: install
	$(BIN)/hscode run --ask --home $(HOME_DIR) $(if $(CONFIG),--config $(CONFIG)) $(foreach file,$(DATA),--data $(file)) \
		$(if $(NOMENCLATURE),--nomenclature $(NOMENCLATURE))

loop: install
	$(BIN)/hscode loop --home $(HOME_DIR)

# Both at once: tests on a cluster wait for the most part. Where ../shared/cluster is not, they are skipped with that reason.
test: lint
	$(MAKE) --no-print-directory -j 2 test-here test-cluster

test-here: install
	$(BIN)/pytest -n 2 --dist loadfile -m 'not cluster and not long'

test-cluster: install
	$(BIN)/pytest -m 'cluster and not long'

test-all: lint
	$(BIN)/pytest

fast: install
	$(BIN)/pytest -m 'not slow and not cluster'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

compile: install
	$(BIN)/hscode compile

images: $(IMAGES:%=image-%)

image-%:
	$(DOCKER) build -f $(dockerfile_$*) -t $(call image,$*) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
		--build-arg INDEX_URL=$(INDEX_URL) $(if $(filter training,$*),--build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL)) \
		--build-arg COMMIT=$$(git rev-parse HEAD) .
	@$(DOCKER) image inspect --format '{{.Size}}' $(call image,$*) | awk '{printf "$(call image,$*): %.0f MB\n", $$1 / 1e6}'

push: $(IMAGES:%=push-%)

push-%: image-%
	$(DOCKER) push $(call image,$*)

# The operator's object holds the rules themselves: it is made from the file that the tests run (others may read it now: mv).
manifests:
	{ printf '# Made from monitoring/rules.yaml by `make manifests`; a test compares.\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n'; \
	  printf 'metadata:\n  name: hscode\n  labels:\n    app.kubernetes.io/component: monitoring\n    app.kubernetes.io/part-of: hscode\nspec:\n'; \
	  sed -n '/^groups:/,$$p' manifests/monitoring/rules.yaml | sed 's/^./  &/'; } >manifests/components/prometheus-operator/prometheusrule.yaml.new
	mv manifests/components/prometheus-operator/prometheusrule.yaml.new manifests/components/prometheus-operator/prometheusrule.yaml
	mkdir -p dist/manifests
	for overlay in overlays/kind overlays/kind-kubeflow overlays/cloud kubeflow; do \
	  kubectl kustomize manifests/$$overlay >dist/manifests/$$(basename $$overlay).yaml || exit 1; done

kind-up:
	manifests/platform/up

kind-down:
	manifests/platform/down

clean:
	rm -rf dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache

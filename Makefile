# Every target works on a fresh Debian 12 machine: it installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# grpcio-tools 1.76.0 writes stubs that load on protobuf 6.31 and later; it needs an older protobuf itself.
GEN_VENV := build/gen-venv
GRPC_TOOLS := 1.76.0
CHAPTER ?= policy

CONTROL_PACKAGES := python3-venv etcd-server curl procps
NODE_PACKAGES := clang llvm libbpf-dev libbpf1 bpftool linux-libc-dev libc6-dev iproute2 iputils-ping iperf3 etcd-client util-linux containernetworking-plugins python3-bpfcc dnsmasq-base bind9-dnsutils knot-dnsutils

.PHONY: help setup system demo test test-unit bench bpf fuzz lint gen lock mutants soak test-kernels clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: system $(VENV)/.installed bpf ## install everything: system packages, virtual environment, BPF objects

system: ## install the Debian packages that are missing (root only; said in words otherwise)
	@scripts/install-system-packages $(CONTROL_PACKAGES) $(NODE_PACKAGES)

$(VENV)/bin/uv: | system
	@echo "creating $(VENV)"
	@"$(PYTHON)" -m venv --clear $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.installed: requirements.lock pyproject.toml $(VENV)/bin/uv
	@echo "installing Python packages"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

bpf: $(VENV)/.installed ## compile the BPF objects (skipped in words without clang)
	@$(BIN)/python -m shim.bpf.compile

demo: setup ## one packet's whole life: a lab, a policy, flows (CHAPTER=policy)
	@$(BIN)/axoneme lab demo --chapter $(CHAPTER)

test: setup lint ## all tests
	@scripts/run-tests $(BIN)/python

test-unit: $(VENV)/.installed ## tests that need neither root nor BPF
	@$(BIN)/python -m pytest tests/unit tests/model tests/golden -m "not root and not etcd"

bench: setup ## first figures: allocation, policy to kernel, TCP with and without programs
	@$(BIN)/python -m tests.perf

soak: setup ## full counts of the random tests
	@AXONEME_TEST_PROFILE=soak $(BIN)/python -m pytest tests --timeout 3600

fuzz: $(VENV)/.installed ## coverage-guided fuzzers of policy and of DNS messages, SECONDS each (600)
	@for target in parse resolve dns_question dns_answer; do $(BIN)/python -m tests.fuzz $$target $(or $(SECONDS),600) || exit 1; done

mutants: $(VENV)/.installed ## seeded mistakes in the policy engine, each of which a test must catch
	@$(BIN)/python -m tests.mutants.runner

test-kernels: setup ## every program before the verifiers of 6.1 and 6.12, in a virtual machine (TABLES=1: test runs too)
	@scripts/install-system-packages qemu-system-x86 busybox-static
	@$(BIN)/python -m tests.kernels $(if $(TABLES),,--load-only)

lint: $(VENV)/.installed ## ruff, mypy, import-linter, buf lint, buf breaking, generated stubs
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/buf lint
	@scripts/check-breaking $(BIN)/buf
	@scripts/check-generated

gen: ## write the gRPC stubs from protos/
	@scripts/generate-stubs

lock: $(VENV)/bin/uv ## renew requirements.lock
	@scripts/renew-lock $(BIN)/uv

clean: ## remove what the targets made (the lab first)
	@if [ -x $(BIN)/axoneme ]; then $(BIN)/axoneme lab down --quiet || true; fi
	@rm -rf $(VENV) build dist shim/bpf/objects .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Lepton NPU. `make help` lists what there is to make; every target works from a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV  ?= .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.lepton-installed
JOBS  ?= 2

# Choices of a simulation. They reach the programs as options and as environment variables.
SIM    ?=
PRESET ?=
SEED   ?=
WAVES  ?=
IMAGES ?=
PLAN   ?=
ONLY   ?=
ARGS   ?=
options = $(if $(SIM),--sim $(SIM)) $(if $(PRESET),--preset $(PRESET)) $(if $(SEED),--seed $(SEED))

.PHONY: help venv sim test soak hostile tables formal mnist rtl lint format synth bench docs clean distclean

help: ## this list
	@echo "Lepton NPU: targets"
	@sed -nE 's/^([a-z]+):[^#]*## (.*)$$/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo "Choices: SIM=verilator|icarus  PRESET=name  SEED=number  WAVES=1  JOBS=$(JOBS)  COCOTB_TEST_FILTER=regex"

venv: $(STAMP) ## the Python environment, from the versions in requirements.lock

$(STAMP): requirements.lock
	@sim/setup.sh venv $(VENV)
	@touch $@

sim: $(STAMP) ## the main job: real digits classified on the RTL, compared bit for bit [SIM= PRESET= IMAGES= WAVES=1 SEED=]
	@sim/setup.sh $(if $(filter icarus,$(SIM)),icarus,verilator)
	@$(PY) -m lepton_sim.main_job $(options) $(if $(IMAGES),--images $(IMAGES)) $(if $(filter-out 0,$(WAVES)),--waves) $(ARGS)

test: $(STAMP) ## all tests on both simulators; JUnit results in build/results.xml [JOBS= ARGS="-k name"]
	@sim/setup.sh icarus verilator
	@mkdir -p build
	@LEPTON_OPTIMISE=$${LEPTON_OPTIMISE:--O1} $(PY) -m pytest -n $(JOBS) --dist worksteal -q --junitxml build/results.xml $(ARGS)

soak: $(STAMP) ## random command programs, RTL against the instruction-set simulator, on all cores [PROGRAMS= SEED= PRESET=]
	@sim/setup.sh $(if $(filter icarus,$(SIM)),icarus,verilator)
	@$(PY) -m lepton_sim.soak $(options) $(if $(PROGRAMS),--programs $(PROGRAMS)) $(ARGS)

hostile: $(STAMP) ## contexts that do all the wrong things beside others whose results must not change [EVENTS= SEED=]
	@sim/setup.sh verilator
	@$(PY) -m lepton_sim.hostile $(if $(SEED),--seed $(SEED)) $(if $(EVENTS),--events $(EVENTS)) $(ARGS)

tables: $(STAMP) ## random page tables, RTL of the MMU against the model [TABLES= SEED= PRESET=]
	@sim/setup.sh verilator
	@$(PY) -m lepton_sim.page_tables $(options) $(if $(TABLES),--tables $(TABLES)) $(ARGS)

formal: $(STAMP) ## proofs of units, for all cycles where possible, and bugs that they must catch [ONLY=regex ARGS=--list]
	@$(PY) -m formal --jobs $(JOBS) $(if $(ONLY),--only '$(ONLY)') $(ARGS)

mnist: $(STAMP) ## trains the 784-64-10 network on MNIST on the RTL, 5 epochs, to 97 %; goes on where it was interrupted [BACKEND=model EPOCHS= IMAGES= SEED= PLAN=1: print the plan only]
	@sim/setup.sh verilator
	@$(PY) -m lepton_sim.mnist $(if $(PRESET),--preset $(PRESET)) $(if $(SEED),--seed $(SEED)) $(if $(BACKEND),--backend $(BACKEND)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(IMAGES),--images $(IMAGES)) $(if $(PLAN),--plan) $(ARGS)

rtl: $(STAMP) ## Verilog of every preset into rtl/, the same bytes every time [PRESET=]
	@$(PY) -m lepton_npu.verilog $(if $(PRESET),--preset $(PRESET)) --output rtl $(ARGS)

lint: $(STAMP) ## Verilator lint of the generated Verilog, ruff, mypy
	@sim/setup.sh verilator
	@$(PY) -m lepton_sim.lint $(ARGS)

format: $(STAMP) ## ruff's formatter and fixes on the whole tree
	@$(PY) -m ruff format . && $(PY) -m ruff check --fix .

synth: $(STAMP) ## ECP5: LUT, FF, DSP, BRAM by unit [PRESET=]; UNIT=name places and routes one unit (UNIT=all: every one)
	@$(PY) -m bench.synth $(if $(PRESET),--preset $(PRESET)) $(if $(UNIT),--unit $(UNIT)) $(ARGS)

bench: $(STAMP) ## utilisation and speed, as a table and JSON [PRESET=]
	@sim/setup.sh verilator
	@$(PY) -m bench.run $(if $(PRESET),--preset $(PRESET)) $(ARGS)

docs: $(STAMP) ## command set and register map, from their definitions, into docs/ and build/docs
	@$(PY) -m docs.build $(ARGS)

clean: ## what builds and tests left behind
	rm -rf build sim_build obj_dir results.xml .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## and the environment and generated Verilog
	rm -rf $(VENV) rtl

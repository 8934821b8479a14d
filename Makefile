# prior.cu: `make` prints what it found and builds the two programs.
#   make                  the programs              make test     unit tests (the slow ones: test-all)
#   make golden bench    the tools                 make lint     layers, sizes, format
#   make asan            unit tests, sanitized     make fuzz        every format from elsewhere
#   make op OP=loss       tests and benchmark of one op
#   make cuda-check      kernels through nvcc      make ladder LADDER=attention   a ladder of dev/cuda
#   make clean
# Settings: BUILD=dir, CXX, OPT=-O3, MARCH=native, ONEDNN=0 (our own GEMM instead of oneDNN), MPI=0,
#   CUDA=0 (no GPU, though nvcc is there), CUDA_ARCHS="90" (for these GPUs only)
BUILD ?= build
CXX ?= g++
MARCH ?= native
OPT ?= -O3
# The tests' own code: compiled in half the time.
TEST_OPT ?= -O1
CXXFLAGS ?=
OP ?= loss
ifeq ($(MAKELEVEL),0) # a -jN on the command line wins
MAKEFLAGS += -j$(shell nproc)
endif

# -Wno-restrict: g++ 12 warns about its own std::string (PR 105651). -Wno-unknown-pragmas: the
# kernels' `#pragma unroll` is nvcc's.
ALL_CXXFLAGS = -std=gnu++20 -g1 $(OPT) -march=$(MARCH) -ffp-contract=fast -fno-math-errno -fopenmp \
  -Wall -Wextra -Werror -Wno-psabi -Wno-restrict -Wno-unknown-pragmas -I. -I$(BUILD) $(DEFINES) $(MPI_FLAGS) $(CXXFLAGS)
LDLIBS = $(LIBS) -lxxhash -lpcre2-8 -lutf8proc -fopenmp

has_header = $(shell $(CXX) -E -x c++ -include $(1) /dev/null >/dev/null 2>&1 && echo 1)
builds := $(if $(filter clean lint,$(MAKECMDGOALS)),,yes)
ifdef builds
ONEDNN ?= $(call has_header,oneapi/dnnl/dnnl.hpp)
MPI ?= $(shell command -v mpicxx >/dev/null 2>&1 && echo 1)
CATCH2_V3 := $(call has_header,catch2/catch_all.hpp)
NVCC := $(shell command -v nvcc)
CUDA ?= $(if $(NVCC),1)
CUDA_KNOWN := $(if $(NVCC),$(shell $(NVCC) --list-gpu-arch))
CUDA_ARCHS ?= $(patsubst compute_%,%,$(filter compute_80 compute_90 compute_100 compute_120,$(CUDA_KNOWN)))
endif
ifeq ($(CUDA),1)
CUDA_HOME ?= $(abspath $(dir $(realpath $(NVCC)))..)
NCCL := $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h)
# Before the system's own headers -isystem /usr/include would hide the C++ library's.
DEFINES += -DPRIOR_CUDA $(if $(NCCL),-DPRIOR_NCCL) $(if $(filter-out /usr,$(CUDA_HOME)),-isystem $(CUDA_HOME)/include)
# cuBLASLt and NCCL are loaded when a GPU computes: llmc/device/library.h.
LIBS += -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lpthread \
  -Wl,-rpath,$(CUDA_HOME)/lib64:$(CUDA_HOME)/lib
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

# Each compiler's flags in a file that is written when they change: its objects are made again then.
FLAGS := $(BUILD)/flags
CUDA_FLAGS := $(BUILD)/cuda/flags
flags_now := $(filter-out ccache,$(CXX)) $(ALL_CXXFLAGS) $(TEST_OPT) $(LDLIBS)
same = $(and $(findstring x$(1)x,x$(2)x),$(findstring x$(2)x,x$(1)x))
keep_flags = $(if $(call same,$(strip $(2)),$(strip $(file <$(1)))),,$(file >$(1),$(2)))

objects = $(patsubst %.cpp,$(BUILD)/%.o,$(patsubst %.cu,$(BUILD)/%.cu.o,$(1)))
LIBRARY := $(BUILD)/libprior.a
KERNELS := $(wildcard llmc/ops/*.cu llmc/device/*.cu)
CUDA_OBJECTS := $(KERNELS:%.cu=$(BUILD)/cuda/%.o)
LIB_OBJECTS := $(call objects,$(wildcard llmc/*/*.cpp llmc/device/simt/*.cpp) $(KERNELS)) \
  $(if $(filter 1,$(CUDA)),$(CUDA_OBJECTS))
CASE_OBJECTS := $(call objects,$(wildcard test/cases/*.cpp) test/op_case.cpp)
GOLDEN_OBJECTS := $(call objects,$(wildcard test/golden_*.cpp))
TEST_OBJECTS := $(call objects,$(filter-out test/golden_main.cpp,$(wildcard test/*.cpp test/*.cu test/cases/*.cpp)) \
  test/fuzz/targets.cpp)

comma := ,
all: found train rollout data/prepare

found:
	@echo "compiler  $(CXX) $(shell $(CXX) -dumpfullversion), $(OPT) -march=$(MARCH)"
	@echo "oneDNN    $(if $(filter 1,$(ONEDNN)),found: GEMM through its matmul,not found: GEMM by our tile kernel)"
	@echo "MPI       $(if $(filter 1,$(MPI)),found: mpirun trains data parallel,not found: one process)"
	@echo "CUDA      $(if $(filter 1,$(CUDA)),nvcc found: -device cuda cpu simt$(comma) GPUs of sm $(CUDA_ARCHS)$(comma) NCCL $(if $(NCCL),found,not found: MPI between GPUs),not built: -device cpu simt)"
	@echo "building  ./train ./rollout data/prepare"

train rollout: %: $(BUILD)/%_gpt.cu.o $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

data/prepare: $(BUILD)/data/prepare.o $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

golden: $(GOLDEN_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

bench: $(BUILD)/dev/bench/bench.o $(CASE_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

$(BUILD)/bench_rollout $(BUILD)/bench_tokenize $(BUILD)/bench_load $(BUILD)/bench_loss $(BUILD)/bench_peak: $(BUILD)/bench_%: $(BUILD)/dev/bench/%.o $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

$(BUILD)/tests: $(TEST_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(if $(CATCH2_V3),-lCatch2) $(LDLIBS)

# Kernels whose loads and stores report to the SIMT runtime's tracer. -O1: vectorised code would
# count other accesses than the source has.
TRACED := $(patsubst %,$(BUILD)/traced/%.o,$(KERNELS) $(wildcard test/traced/*.cu))
$(BUILD)/traced/%.o: % $(FLAGS)
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -O1 -fsanitize=thread -x c++ -MMD -MP -c $< -o $@

$(BUILD)/traced_tests: $(TRACED) $(call objects,$(wildcard test/traced/*.cpp) test/main.cpp) $(CASE_OBJECTS) $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(if $(CATCH2_V3),-lCatch2) $(LDLIBS)

$(LIBRARY): $(LIB_OBJECTS)
	@rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.cpp $(FLAGS)
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/%.cu.o: %.cu $(FLAGS)
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -x c++ -MMD -MP -c $< -o $@

$(BUILD)/test/%.o: OPT = $(TEST_OPT)

# The default recipe, as a C++ string.
$(BUILD)/embedded_recipe.inc: scripts/recipes/embedded.ini
	@mkdir -p $(BUILD)
	@{ printf 'R"recipe('; cat $<; printf ')recipe"\n'; } > $@
$(BUILD)/llmc/train/keys.o: $(BUILD)/embedded_recipe.inc

test: $(BUILD)/tests $(BUILD)/traced_tests
	$(BUILD)/tests '~[slow]'
	$(BUILD)/traced_tests

test-all: $(BUILD)/tests
	$(BUILD)/tests

# -Wno-maybe-uninitialized: g++ 12 warns about its own <regex> under these flags.
# asan-use-after-return=0: g++ 13 misaligns 64-byte vectors on the fake stack (PR 110027).
asan:
	@$(MAKE) BUILD=build-asan OPT=-O1 TEST_OPT=-O0 CUDA=0 \
	  CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -Wno-maybe-uninitialized \
  --param asan-use-after-return=0" build-asan/tests

# Fuzzing of what comes from elsewhere: FUZZ_SECONDS for each target in turn, under ASan and UBSan. A finding
# stops it and lies in build-fuzz/; put it into test/fuzz/corpus/TARGET when it is fixed.
FUZZ_SECONDS = 600
FUZZ_TARGETS = safetensors config tokenizer shard problem recipe
FUZZ_SOURCES := $(wildcard llmc/core/*.cpp llmc/data/*.cpp) llmc/model/config.cpp llmc/train/keys.cpp \
  test/fuzz/targets.cpp
FUZZ_FLAGS = -std=gnu++20 -O1 -gline-tables-only -I. -I$(BUILD) -fsanitize=address,undefined -fno-sanitize-recover=undefined \
  -fsanitize=fuzzer-no-link
.SECONDARY: $(FUZZ_SOURCES:%.cpp=build-fuzz/%.o)
build-fuzz/%.o: %.cpp $(BUILD)/embedded_recipe.inc
	@mkdir -p $(dir $@)
	$(FUZZ_CXX) $(FUZZ_FLAGS) -MMD -MP -c $< -o $@
build-fuzz/fuzz_%: test/fuzz/main.cpp $(FUZZ_SOURCES:%.cpp=build-fuzz/%.o)
	$(FUZZ_CXX) $(FUZZ_FLAGS) -fsanitize=fuzzer \
	  -DFUZZ_TARGET=$(shell echo $(FUZZ_TARGETS) | tr ' ' '\n' | grep -n '^$*$$' | cut -d: -f1 | xargs -I N expr N - 1) \
	  $^ -o $@ -lxxhash -lpcre2-8 -lutf8proc
FUZZ_CXX = clang++

fuzz: $(FUZZ_TARGETS:%=build-fuzz/fuzz_%)
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p build-fuzz/corpus/$$target; echo "== $$target, $(FUZZ_SECONDS) s"; \
	  build-fuzz/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
	    -print_final_stats=1 -artifact_prefix=build-fuzz/$$target- -dict=test/fuzz/words.dict \
	    build-fuzz/corpus/$$target test/fuzz/corpus/$$target 2>build-fuzz/$$target.log || \
	    { tail -40 build-fuzz/$$target.log; exit 1; }; \
	  grep -E 'number_of_executed_units|average_exec|new_units' build-fuzz/$$target.log; done

# One op's path: equation, contract, reference, fast CPU, cases; then its tests and its benchmark.
op: $(BUILD)/tests bench
	@ls doc/equations.md llmc/ops/$(OP)*.* $(wildcard test/cases/$(OP)*.cpp test/test_$(OP)*.cpp)
	$(BUILD)/tests '[op]' && ./bench $(OP)

# The kernels through nvcc, once for all architectures that it knows. What ptxas says of each
# (registers, shared memory) and its PTX stay beside the object, which the programs link, and make
# test/traced/registers.txt. A warning or a spilled register stops
# cuda-check, not the build by another nvcc.
NVCCFLAGS = -std=c++20 -O3 -I. -DPRIOR_CUDA -Xcompiler -Wall,-Wextra,-Werror,-Wno-unknown-pragmas \
  -Xptxas -v,--warn-on-spills
$(BUILD)/cuda/%.o: %.cu $(CUDA_FLAGS)
	@rm -rf $(@:.o=.keep) && mkdir -p $(@:.o=.keep)
	@echo "nvcc $< for sm $(CUDA_ARCHS)"
	@$(NVCC) $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch)) $(NVCCFLAGS) \
	  --keep --keep-dir $(@:.o=.keep) -MMD -MP -c $< -o $@ >$(@:.o=.txt) 2>&1 || { cat $(@:.o=.txt); rm -f $@; exit 1; }
	@find $(@:.o=.keep) -type f ! -name '*.ptx' -delete
ifdef builds
$(shell mkdir -p $(BUILD)/cuda)
$(call keep_flags,$(FLAGS),$(flags_now))
$(call keep_flags,$(CUDA_FLAGS),$(NVCC) $(CUDA_ARCHS) $(NVCCFLAGS))
endif
ifneq ($(NVCC),)
cuda-check: $(CUDA_OBJECTS)
	@! grep -n 'warning' $(CUDA_OBJECTS:.o=.txt)
	@echo "cuda-check: $(notdir $(KERNELS)) for $(addprefix sm_,$(CUDA_ARCHS)): no warnings, no spills"
	@python3 test/traced/registers.py $(BUILD)/cuda
registers: $(CUDA_OBJECTS)
	@python3 test/traced/registers.py $(BUILD)/cuda --write
else
cuda-check registers:
	@echo "$@: skipped, no nvcc"
endif

# A ladder of dev/cuda: traced, under SIMT, and for the GPU where nvcc is. Its early versions may
# spill.
LADDER ?= attention
$(BUILD)/ladder_$(LADDER): $(BUILD)/traced/dev/cuda/$(LADDER)/ladder.cu.o $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)
$(BUILD)/cuda/ladder_$(LADDER).o: dev/cuda/$(LADDER)/ladder.cu
	@mkdir -p $(dir $@)
	$(NVCC) -arch=sm_$(firstword $(CUDA_ARCHS)) -std=c++20 -O3 -I. -DPRIOR_CUDA -MMD -MP -c $< -o $@
$(BUILD)/ladder_$(LADDER)_cuda: $(BUILD)/cuda/ladder_$(LADDER).o $(LIBRARY)
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)
ladder: $(BUILD)/ladder_$(LADDER) $(if $(filter 1,$(CUDA)),$(BUILD)/ladder_$(LADDER)_cuda)

lint:
	@python3 scripts/lint.py

clean:
	rm -rf build build-* train rollout data/prepare golden bench

.PHONY: all found test test-all asan fuzz op cuda-check registers ladder lint clean
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

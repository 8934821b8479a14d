# prior.cu: `make` prints what it found and what it builds.
#   make train rollout     the two programs        make test      all tests (fast ones: test-fast)
#   make golden bench      the two tools           make lint      layers, sizes, format
#   BUILD=dir              where objects go        ONEDNN=0 MPI=0 build without a library
BUILD ?= build
CXX ?= g++
MARCH ?= native
OPT ?= -O3
CXXFLAGS ?=
ALL_CXXFLAGS = -std=gnu++20 $(OPT) -g -march=$(MARCH) -ffp-contract=fast -fno-math-errno -fopenmp \
  -Wall -Wextra -Werror -Wno-psabi -Wno-restrict -I. -I$(BUILD) $(DEFINES) $(CXXFLAGS)
LDLIBS = $(LIBS) -lxxhash -fopenmp

has_header = $(shell $(CXX) -E -x c++ -include $(1) /dev/null >/dev/null 2>&1 && echo 1)
ONEDNN ?= $(call has_header,oneapi/dnnl/dnnl.hpp)
CATCH2_V3 := $(call has_header,catch2/catch_all.hpp)
ifeq ($(ONEDNN),1)
DEFINES += -DPRIOR_ONEDNN
LIBS += -ldnnl
endif

LIB_SOURCES := $(wildcard llmc/*/*.cpp)
GOLDEN_SOURCES := $(wildcard test/golden_*.cpp)
TEST_SOURCES := $(filter-out test/golden_main.cpp,$(wildcard test/*.cpp test/cases/*.cpp))
LIB_OBJECTS := $(LIB_SOURCES:%.cpp=$(BUILD)/%.o)
CASE_OBJECTS := $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard test/cases/*.cpp) test/op_case.cpp)
TEST_OBJECTS := $(TEST_SOURCES:%.cpp=$(BUILD)/%.o)

all: train rollout

$(BUILD)/%.o: %.cpp
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/libprior.a: $(LIB_OBJECTS)
	@rm -f $@ && ar rcs $@ $^

# The default recipe, as a C++ string.
$(BUILD)/embedded_recipe.inc: scripts/recipes/embedded.ini
	@mkdir -p $(BUILD)
	@{ printf 'R"recipe('; cat $<; printf ')recipe"\n'; } > $@
$(BUILD)/llmc/train/keys.o: $(BUILD)/embedded_recipe.inc

train: $(BUILD)/train_gpt.o $(BUILD)/libprior.a
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

rollout: $(BUILD)/rollout_gpt.o $(BUILD)/libprior.a
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

$(BUILD)/%_gpt.o: %_gpt.cu
	@mkdir -p $(dir $@)
	$(CXX) $(ALL_CXXFLAGS) -x c++ -MMD -MP -c $< -o $@

$(BUILD)/tests: $(TEST_OBJECTS) $(BUILD)/libprior.a
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(if $(CATCH2_V3),-lCatch2) $(LDLIBS)

golden: $(GOLDEN_SOURCES:%.cpp=$(BUILD)/%.o) $(BUILD)/libprior.a
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

bench: dev/bench/bench.cpp $(CASE_OBJECTS) $(BUILD)/libprior.a
	$(CXX) $(ALL_CXXFLAGS) $^ -o $@ $(LDLIBS)

clean:
	rm -rf build build-* train rollout golden bench

.PHONY: all clean
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

// ./train: reads the recipe, builds the run, runs the one loop. The loop is llmc/train/run.cpp.
#include "llmc/core/error.h"
#include "llmc/train/keys.h"
#include "llmc/train/run.h"

#include <cstdio>
#include <cstdlib>

// Under mpirun every process would train the same model into the same folder: rank 0 does it.
static int launcher_rank() {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"})
        if (const char* rank = std::getenv(name)) return std::atoi(rank);
    return 0;
}

static int train_main(int argc, char** argv) {
    std::vector<std::string> arguments(argv + 1, argv + argc);
    const bool help = take_help_flag(&arguments);
    const Recipe recipe = read_train_recipe(arguments);
    if (help) {
        std::printf("%s", recipe.usage().c_str());
        return 0;
    }
    if (launcher_rank() != 0) return 0;
    return Run(recipe).train();
}

int main(int argc, char** argv) { return run_main(train_main, argc, argv); }

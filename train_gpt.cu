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
    bool help = false;
    for (size_t i = 0; i < arguments.size();) {
        const bool is_help =
            arguments[i] == "-h" || arguments[i] == "--help" || arguments[i] == "-help";
        help = help || is_help;
        if (is_help) arguments.erase(arguments.begin() + int64_t(i));
        else i++;
    }
    const Recipe recipe = read_train_recipe(arguments);
    if (help) {
        std::printf("%s", recipe.usage().c_str());
        return 0;
    }
    if (launcher_rank() != 0) return 0;
    return Run(recipe).train();
}

int main(int argc, char** argv) { return run_main(train_main, argc, argv); }

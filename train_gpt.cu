// ./train: reads the recipe, builds the run, runs the one loop. The loop is llmc/train/run.cpp.
#include "llmc/core/error.h"
#include "llmc/train/keys.h"
#include "llmc/train/plan.h"
#include "llmc/train/run.h"

#include <cstdio>

static int train(Comm& comm, std::vector<std::string> arguments) {
    const bool help = take_help_flag(&arguments);
    const Recipe recipe = read_train_recipe(arguments);
    if (help) {
        if (comm.root()) std::printf("%s", recipe.usage().c_str());
        return 0;
    }
    if (recipe.text("", "plan") == "yes") {
        const Backend backend = named_backend(recipe.text("", "device"));
        Comm planned(int(recipe.integer("", "plan_ranks")));
        const int threads = threads_per_rank(int(recipe.integer("", "threads")), planned.size());
        const CtxSettings on{backend, threads, choose_bf16(recipe.text("", "dtype"), backend)};
        const RunShape shape = run_shape(recipe, recipe_tokenizer(recipe), planned);
        if (comm.root()) std::printf("%s", plan_text(on, shape, planned).c_str());
        return 0;
    }
    return Run(recipe, comm).train();
}

static int train_main(int argc, char** argv) {
    Comm comm(Role::work);
    return comm.run([&] { return train(comm, {argv + 1, argv + argc}); });
}

int main(int argc, char** argv) { return run_main(train_main, argc, argv); }

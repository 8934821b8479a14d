// The recipes that come with the program.
#include "llmc/core/file.h"
#include "llmc/train/keys.h"
#include "test/catch.h"

TEST_CASE("recipe: every file of scripts/recipes parses and its resolved text repeats it",
          "[recipe]") {
    int count = 0;
    for (const std::string& name : list_directory("scripts/recipes")) {
        INFO(name);
        const Recipe recipe = read_train_recipe({"-recipe", "scripts/recipes/" + name});
        Recipe again(train_keys());
        again.read_text(recipe.resolved(), "resolved");
        CHECK(again.resolved() == recipe.resolved());
        check_config(recipe_model(recipe, 257));
        for (const char* stage : {"pretrain", "midtrain", "rl"})
            CHECK(recipe_loss(recipe, stage, 257).beta > -1);
        count++;
    }
    CHECK(count >= 5);
}

TEST_CASE("recipe: the paper's figures are in its recipes", "[recipe]") {
    for (const char* name : {"1B", "4B", "5B-A0.3B", "10B-A0.5B"}) {
        const Recipe r =
            read_train_recipe({"-recipe", std::string("scripts/recipes/") + name + ".ini"});
        INFO(name);
        CHECK(recipe_model(r, 257) == model_preset(name));
        CHECK(r.integer("pretrain", "batch") * r.integer("pretrain", "context") == 16 << 20);
        CHECK(r.integer("midtrain", "batch") * r.integer("midtrain", "context") == 16 << 20);
        CHECK(r.integer("pretrain", "tokens") == 500000000000);
        CHECK(r.integer("midtrain", "tokens") == 100000000000);
        CHECK(r.integer("pretrain", "warmup") == 2000);
        CHECK(r.real("pretrain", "lr") == 3e-4);
        CHECK(r.real("midtrain", "lr_end") == 3e-5);
        CHECK(r.real("midtrain", "rope_base") == 1e6);
        CHECK(r.real("rl", "lr") == 1e-6);
        CHECK(r.integer("rl", "max_new_tokens") == 8192);
        CHECK(r.integer("rl", "max_new_tokens_late") == 16384);
        CHECK(r.integer("rl", "late_step") == 700);
        CHECK(r.integer("rl", "decay") == 0); // a constant learning rate
        CHECK(r.real("rl", "temperature") == 1);
        CHECK(r.real("rl", "kl") == 0);
        CHECK(r.real("rl", "clip_high") == 0.28);
        CHECK(r.text("rl", "aggregation") == "token_mean");
        CHECK(r.real("", "eval_top_p") == 0.95);
        CHECK(r.integer("rl", "groups") * r.integer("rl", "group_size") == 2048);
        for (const char* stage : {"pretrain", "midtrain", "rl"}) {
            CHECK(r.real(stage, "weight_decay") == 0.1);
            CHECK(r.real(stage, "clip") == 1);
        }
    }
}

TEST_CASE("recipe: -beta alone is the embedded recipe with a sharper prior", "[recipe]") {
    const Recipe r = read_train_recipe({"-beta", "-0.25"});
    CHECK(r.real("pretrain", "beta") == -0.25);
    CHECK(r.real("midtrain", "beta") == -0.25);
    CHECK(r.text("", "stages") == "pretrain,midtrain,rl");
    CHECK(recipe_model(r, 257) == model_preset("tiny"));
}

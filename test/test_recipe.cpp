// Recipe text, command line and precedence (llmc/core/recipe.h).
#include "test/catch.h"

#include "llmc/core/error.h"
#include "llmc/core/recipe.h"

static KeyTable small_table() {
    return {"usage: x\n",
            {"pretrain", "rl"},
            {{"seed", "run", KeyType::integer, "1", 0, 1e9, "", "random seed"},
             {"lr", "optimizer", KeyType::real, "1e-3", 0, 1, "", "learning rate", "", 3},
             {"shape", "loss", KeyType::choice, "factor", 0, 0, "", "form", "factor|exponent", 3},
             {"group", "rl", KeyType::integer, "16", 2, 1024, "samples", "group size", "", 2},
             {"data", "data", KeyType::text, "", 0, 0, "", "what to read", "", 3},
             {"decode", "data", KeyType::flag, "no", 0, 0, "", "backwards"}}};
}

static std::string message_of(const std::function<void(Recipe&)>& action) {
    Recipe recipe(small_table());
    try {
        action(recipe);
    } catch (const UserError& error) {
        REQUIRE(error.exit_code == 2);
        return error.what();
    }
    return "";
}

TEST_CASE("recipe: flag beats section beats top beats default", "[recipe]") {
    Recipe recipe(small_table());
    CHECK(recipe.real("rl", "lr") == 1e-3);
    recipe.read_arguments({"-rl.lr", "5e-6"});
    recipe.read_text("lr = 2e-3\nseed = 7 # comment\n[rl]\nlr = 1e-4\n", "r.ini");
    CHECK(recipe.real("pretrain", "lr") == 2e-3);
    CHECK(recipe.real("rl", "lr") == 5e-6);
    CHECK(recipe.integer("", "seed") == 7);
    recipe.read_arguments({"--lr=3e-3"});
    CHECK(recipe.real("pretrain", "lr") == 3e-3);
    CHECK(recipe.real("rl", "lr") == 5e-6);
}

TEST_CASE("recipe: keys that a resumption may change", "[recipe]") {
    KeyTable table = small_table();
    for (Key& key : table.keys) key.binds = std::string(key.name) != "seed";
    const Recipe recipe(table);
    CHECK(!recipe.binds("seed"));
    CHECK(recipe.binds("lr"));
    CHECK(recipe.binds("rl.lr"));
    CHECK(recipe.binds("of an older build"));
}

TEST_CASE("recipe: a flag alone is yes and leaves the next word", "[recipe]") {
    using Words = std::vector<std::string>;
    for (const auto& [arguments, value, words] :
         {std::tuple<Words, const char*, Words>{{"-decode", "file"}, "yes", {"file"}},
          {{"-", "-decode"}, "yes", {"-"}},
          {{"-decode", "-seed", "3"}, "yes", {}},
          {{"-decode", "no", "file"}, "no", {"file"}},
          {{"--decode=yes", "no"}, "yes", {"no"}},
          {{"file"}, "no", {"file"}}}) {
        Recipe recipe(small_table());
        CHECK(recipe.read_arguments(arguments) == words);
        CHECK(recipe.text("", "decode") == value);
    }
    CHECK(message_of([](Recipe& r) { r.read_arguments({"-decode=maybe"}); }) != "");
}

TEST_CASE("recipe: negative numbers are values, words are returned", "[recipe]") {
    Recipe recipe(small_table());
    CHECK(recipe.read_arguments({"generate", "-seed", "3", "file"}) ==
          std::vector<std::string>{"generate", "file"});
    CHECK(message_of([](Recipe& r) {
              r.read_arguments({"-lr", "-0.5"});
          }).find("outside") != std::string::npos);
}

TEST_CASE("recipe: the resolved text alone repeats the values", "[recipe]") {
    Recipe first(small_table());
    first.read_arguments({"-lr", "0.25", "-pretrain.shape", "exponent", "-data", "a b#c*0.5,d"});
    Recipe second(small_table());
    second.read_text(first.resolved(), "recipe.ini");
    CHECK(second.resolved() == first.resolved());
    CHECK(second.text("pretrain", "shape") == "exponent");
    CHECK(second.text("rl", "data") == "a b#c*0.5,d");
}

TEST_CASE("recipe: every fault is one message with place and remedy", "[recipe]") {
    auto text = [](const char* t) {
        return message_of([&](Recipe& r) { r.read_text(t, "r.ini"); });
    };
    CHECK(text("seed = 1\nsede = 2\n") == "r.ini:2: unknown key sede");
    CHECK(text("seed = 1x") == "r.ini:1: seed = \"1x\": expected an integer");
    CHECK(text("seed = 1.5") == "r.ini:1: seed = \"1.5\": expected an integer");
    CHECK(text("lr = nan") == "r.ini:1: lr = \"nan\": expected a number");
    CHECK(text("[rl]\nseed = 1") ==
          "r.ini:2: seed is one value for the whole run, not one of [rl]");
    CHECK(text("[pretrain]\ngroup = 4") == "r.ini:2: [pretrain] has no key group");
    CHECK(text("[nope]") == "r.ini:1: unknown section [nope]");
    CHECK(text("seed 1") == "r.ini:1: expected key = value, found \"seed 1\"");
    CHECK(text("seed = 1\nseed = 2") == "r.ini:2: seed is given twice");
    CHECK(text("shape = other") == "r.ini:1: shape = \"other\": expected one of factor|exponent");
    CHECK(message_of([](Recipe& r) {
              r.read_text(std::string("seed = 1\0", 9) + "\n", "r.ini");
          }) == "r.ini: byte 8 is zero");
    for (const char* value : {"a\nseed = 2", "a #b", "#b", " a", "a\r"})
        CHECK(message_of([&](Recipe& r) {
                  r.read_arguments({"-data", value});
                  r.resolved();
              }).find("a recipe cannot hold this") != std::string::npos);
    auto flags = [](std::vector<std::string> a) {
        return message_of([&](Recipe& r) { r.read_arguments(a); });
    };
    CHECK(flags({"-lrr", "1"}) == "unknown flag -lrr");
    CHECK(flags({"-lr"}) == "flag -lr has no value");
    CHECK(flags({"-l", "1"}) == "unknown flag -l");
    CHECK(text("\xef\xbb\xbfseed = 1\r\n[rl]\r\nsede = 2\r\n") == "r.ini:3: unknown key sede");
}

TEST_CASE("recipe: a wrong key's hint names the one that was meant", "[recipe]") {
    const auto hint = [](const std::string& flag) {
        const KeyTable table = small_table();
        Recipe r(table);
        try {
            r.read_arguments({"-" + flag, "1"});
        } catch (const UserError& error) {
            return error.hint;
        }
        return std::string();
    };
    CHECK(hint("lrr") == "did you mean lr? -h lists every key");
    CHECK(hint("group_size") == "did you mean group? -h lists every key"); // by its words
    CHECK(hint("learning_rate") == "did you mean lr? -h lists every key"); // by its help
    CHECK(hint("something_else") == "-h lists every key");
    CHECK(hint("tune.lr") == "before the dot stands one of pretrain, rl");
}

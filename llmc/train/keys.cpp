// Contract: keys.h.
#include "llmc/train/keys.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"

namespace {

constexpr unsigned kPre = 1, kMid = 2, kRl = 4; // bits in the order of KeyTable::sections
constexpr unsigned kText = kPre | kMid, kAll = kPre | kMid | kRl;

const char* kSynopsis =
    "./train [-key value ...]            all stages of the embedded recipe\n"
    "./train -recipe FILE [-key value]   another recipe\n"
    "\n"
    "A key without a stage's name sets every stage that has it; -rl.lr 2e-6 sets one.\n"
    "The same command again resumes the run, or says that it is complete.\n";

// How a run is handled and where it runs, no bit of what it computes: a resumption may change them.
constexpr const char* kHow = "run (a resumption may change these)";
constexpr const char* kEngine = "rollout engine (these too)";
const std::vector<Key> kFreeKeys = {
    {"recipe", kHow, kWord, "", 0, 0, "file", "recipe to read; empty = the embedded one"},
    {"name", kHow, kWord, "", 0, 0, "",
     "run folder inside -runs; empty = the recipe and the flags that change it"},
    {"runs", kHow, kWord, "runs", 0, 0, "folder", "where run folders are"},
    {"stages", kHow, kWord, "pretrain,midtrain,rl", 0, 0, "", "stages to run, in order"},
    {"threads", kHow, kInt, "0", 0, 1024, "threads", "0 = one per core"},
    {"recompute", kHow, kOneOf, "no", 0, 0, "",
     "what the backward computes again instead of keeping it, to the same bits; selective: what "
     "is neither product nor attention; yes: whole blocks, the least memory, a second forward",
     "no|selective|yes"},
    {"checkpoint_every", kHow, kInt, "200", 0, 1e12, "steps",
     "0 = only at the end of a stage and on a signal"},
    {"keep", kHow, kInt, "2", 1, 1e6, "checkpoints", "newest checkpoints kept"},
    {"log_every", kHow, kInt, "50", 1, 1e9, "steps", "one log line, when not on a terminal"},
    {"save_batches", kHow, kInt, "0", 0, 1e12, "steps",
     "write the packed rows of a text stage's first steps to the run folder's batches/"},
    {"plan", kHow, kOneOf, "no", 0, 0, "",
     "print the memory and traffic of a rank and stop, without allocating", "no|yes"},
    {"plan_ranks", kHow, kInt, "1", 1, 1e6, "ranks", "of how many ranks the plan is"},
    {"stop_after", kHow, kInt, "0", 0, 1e15, "steps",
     "save and stop after this many steps of this process; 0 = run to the end"},
    {"decode_rows", kEngine, kInt, "128", 1, 65536, "sequences", "decoded at a time"},
    {"page_size", kEngine, kInt, "64", 1, 4096, "tokens", "tokens of one KV cache page"},
    {"pages", kEngine, kInt, "0", 0, 1e9, "pages",
     "of the KV cache; 0 = enough for all rows. With fewer the newest samples are preempted"},
};

const std::vector<Key> kRunKeys = {
    {"init", "computation", kWord, "", 0, 0, "folder",
     "Hugging Face checkpoint to start from; empty = random weights"},
    {"tokenizer", "computation", kWord, "", 0, 0, "file",
     "tokenizer.json with byte-level BPE; empty = that of -init, or bytes"},
    {"seed", "computation", kInt, "1", 0, 1e15, "", "seed of weights, data order and sampling"},
    {"device", "computation", kOneOf, "auto", 0, 0, "",
     "where to compute: cpu, simt the CUDA kernels on the CPU, ref in double (the oracle)",
     "auto|cpu|simt|cuda|ref"},
    {"dtype", "computation", kOneOf, "fp32", 0, 0, "",
     "of the weights that passes read and of activations; bf16: fp32 master weights, sums, "
     "gradients of weights, statistics and router",
     "fp32|bf16"},
    {"loss_rows", "computation", kInt, "1024", 1, 1e9, "rows", "rows whose logits exist at a time"},
    {"pass_rows", "computation", kInt, "8192", 1, 1e9, "tokens",
     "most tokens of one forward and backward"},
    {"zero", "computation", kOneOf, "1", 0, 0, "",
     "what ranks share out: 1 = Adam's moments, 2 = gradients too: less memory, an exchange for "
     "every pass_rows",
     "1|2"},

    {"model", "model", kWord, "tiny", 0, 0, "",
     "tiny, tiny-moe, demo, demo-moe, 1B, 4B, 5B-A0.3B, 10B-A0.5B"},
    {"layers", "model", kInt, "0", 0, 1e4, "blocks", "0 = as the preset (also below)"},
    {"channels", "model", kInt, "0", 0, 1e6, "", "width of the stream"},
    {"ffn", "model", kInt, "0", 0, 1e6, "", "width of the dense feed-forward"},
    {"heads", "model", kInt, "0", 0, 1e4, "", "query heads"},
    {"kv_heads", "model", kInt, "0", 0, 1e4, "", "key/value heads"},
    {"head_dim", "model", kInt, "0", 0, 1e4, "", "width of one head"},
    {"vocab", "model", kInt, "0", 0, 1e7, "tokens",
     "size of embedding and head, at least the tokenizer's; 0 = the larger of it and the preset's"},
    {"experts", "model", kInt, "-1", -1, 1e5, "experts", "-1 = as the preset, 0 = dense"},
    {"experts_per_token", "model", kInt, "0", 0, 1e5, "experts", "experts each token visits"},
    {"expert_ffn", "model", kInt, "0", 0, 1e6, "", "width of one expert"},
    {"tied", "model", kOneOf, "preset", 0, 0, "", "head = embedding", "preset|yes|no"},
    {"norm_eps", "model", kReal, "1e-6", 0, 1, "", "epsilon of RMSNorm"},
    {"router_scale", "model", kReal, "1", 0, 1e3, "", "factor on normalised expert weights"},
    {"init_std", "model", kReal, "0.02", 0, 10, "", "standard deviation of the first weights"},

    {"eval_problems", "evaluation", kWord, "embedded:arithmetic", 0, 0, "source",
     "held-out problems answered after every stage; empty = none"},
    {"eval_count", "evaluation", kInt, "144", 1, 1e9, "problems", "at most this many"},
    {"eval_samples", "evaluation", kInt, "16", 1, 4096, "samples", "answers per problem"},
    {"eval_new_tokens", "evaluation", kInt, "64", 1, 1e6, "tokens", "longest answer"},
    {"max_prompt_tokens", "evaluation", kInt, "64", 1, 1e6, "tokens",
     "longest prompt of RL and evaluation"},
    {"eval_top_p", "evaluation", kReal, "1", 1e-6, 1, "", "mass kept of the distribution; 1 = off"},
    {"eval_temperature", "evaluation", kReal, "1", 0, 100, "", "0 = greedy"},
    {"val_data", "evaluation", kWord, "", 0, 0, "source",
     "text scored after every stage: files that no stage learns as a whole, of others the held-out "
     "part; empty = pretrain's data"},
    {"val_fraction", "evaluation", kReal, "0.02", 0, 0.5, "",
     "share of the text held out; 0 = none"},
    {"val_rows", "evaluation", kInt, "256", 1, 1e9, "rows", "rows of held-out text scored"},
};

const std::vector<Key> kStageKeys = {
    {"data", "data", kWord, "", 0, 0, "source",
     "text: SOURCE*WEIGHT*PASSES,... (share of tokens, most passes); rl: problems. A source is a "
     "file, a folder or embedded:NAME",
     "", kAll},
    {"prompt_loss", "data", kOneOf, "yes", 0, 0, "",
     "learn prompts too; no: of texts with a prompt and an answer only the answer", "yes|no",
     kText},
    {"steps", "data", kInt, "0", 0, 1e12, "steps", "optimizer steps; text stages: 0 = by tokens",
     "", kAll},
    {"tokens", "data", kInt, "0", 0, 1e15, "tokens", "length of the stage when steps = 0", "",
     kText},
    {"batch", "data", kInt, "32", 1, 1e9, "rows", "rows of one optimizer step", "", kText},
    {"context", "data", kInt, "128", 1, 1e7, "tokens", "tokens of one row", "", kText},
    {"doc_mask", "data", kOneOf, "yes", 0, 0, "",
     "attention stays inside a document and positions restart", "yes|no", kText},
    {"rope_base", "data", kReal, "1e4", 1, 1e12, "", "base of the rotation angles", "", kAll},

    {"lr", "optimizer", kReal, "1e-3", 0, 10, "", "peak learning rate", "", kAll},
    {"lr_end", "optimizer", kReal, "0", 0, 10, "", "learning rate after the decay", "", kAll},
    {"warmup", "optimizer", kInt, "0", 0, 1e12, "steps", "linear warm-up", "", kAll},
    {"decay", "optimizer", kInt, "0", 0, 1e12, "steps", "last steps, in which lr decays", "", kAll},
    {"decay_shape", "optimizer", kOneOf, "linear", 0, 0, "", "how it decays", "linear|sqrt|cosine",
     kAll},
    {"beta1", "optimizer", kReal, "0.9", 0, 1, "", "AdamW's first moment", "", kAll},
    {"beta2", "optimizer", kReal, "0.95", 0, 1, "", "AdamW's second moment", "", kAll},
    {"eps", "optimizer", kReal, "1e-8", 0, 1, "", "AdamW's epsilon", "", kAll},
    {"weight_decay", "optimizer", kReal, "0.1", 0, 10, "", "on matrices, not on norms", "", kAll},
    {"clip", "optimizer", kReal, "1", 0, 1e9, "", "largest gradient norm; 0 = off", "", kAll},
    {"bias_rate", "optimizer", kReal, "0", 0, 1, "", "step of the router bias; 0 = frozen", "",
     kAll},
    {"bad_steps", "optimizer", kInt, "5", 1, 1e6, "steps",
     "stop after this many non-finite steps in a row; single ones are skipped", "", kAll},

    {"beta", "prior", kReal, "0", -1, 100, "",
     "reward of the true token (1/p)(1-p)^beta: < 0 sharper, > 0 flatter prior", "", kText},
    {"lambda_head", "prior", kReal, "0", -10, 10, "", "reward of wrong tokens in the top k", "",
     kText},
    {"lambda_tail", "prior", kReal, "0", -10, 10, "", "reward of wrong tokens outside it", "",
     kText},
    {"k", "prior", kInt, "100", 1, 1e7, "tokens", "size of the head", "", kText},
    {"shape", "prior", kOneOf, "factor", 0, 0, "", "which print of Eq. 11", "factor|exponent",
     kText},

    {"groups", "rl", kInt, "8", 1, 1e6, "problems", "kept problems of one rollout batch", "", kRl},
    {"group_size", "rl", kInt, "16", 2, 4096, "samples", "answers per problem (G)", "", kRl},
    {"refill", "rl", kOneOf, "group", 0, 0, "",
     "a uniform group is replaced at once, or all of a round with half as many more", "group|round",
     kRl},
    {"max_rounds", "rl", kInt, "10", 1, 1e6, "rounds",
     "sampling rounds; refill = group: at most max_rounds * groups problems a step", "", kRl},
    {"updates", "rl", kInt, "1", 1, 1024, "steps", "optimizer steps per rollout batch", "", kRl},
    {"max_new_tokens", "rl", kInt, "64", 1, 1e7, "tokens", "longest answer", "", kRl},
    {"max_new_tokens_late", "rl", kInt, "0", 0, 1e7, "tokens",
     "longest answer from step late_step on; 0 = no change", "", kRl},
    {"late_step", "rl", kInt, "0", 0, 1e12, "steps", "see max_new_tokens_late", "", kRl},
    {"temperature", "rl", kReal, "1", 0.01, 100, "", "of sampling, and of the loss with it", "",
     kRl},
    {"advantage", "rl", kOneOf, "std", 0, 0, "", "divide by the group's standard deviation or not",
     "std|nostd", kRl},
    {"advantage_eps", "rl", kReal, "1e-6", 0, 1, "", "added to that standard deviation", "", kRl},
    {"overlong", "rl", kOneOf, "wrong", 0, 0, "",
     "answers cut at the limit: wrong; graded by what they say; wrong and not trained on; graded, "
     "minus a penalty in the last overlong_buffer tokens",
     "wrong|graded|masked|soft", kRl},
    {"overlong_buffer", "rl", kInt, "0", 0, 1e7, "tokens",
     "of overlong = soft; 0 = a quarter of the longest answer", "", kRl},
    {"kl", "rl", kReal, "0", 0, 100, "", "KL to the weights the stage began with; 0 = off", "",
     kRl},
    {"aggregation", "rl", kOneOf, "token_mean", 0, 0, "", "how token losses are averaged",
     "token_mean|seq_mean|constant", kRl},
    {"clip_low", "rl", kReal, "0.2", 0, 1, "", "ratio clipped below 1 - clip_low", "", kRl},
    {"clip_high", "rl", kReal, "0.28", 0, 100, "", "ratio clipped above 1 + clip_high", "", kRl},
};

} // namespace

KeyTable train_keys() {
    KeyTable table{kSynopsis, {"pretrain", "midtrain", "rl"}, kFreeKeys};
    for (Key& key : table.keys) key.binds = false;
    for (const auto& keys : {kRunKeys, kStageKeys})
        table.keys.insert(table.keys.end(), keys.begin(), keys.end());
    return table;
}

std::string embedded_recipe() {
    return
#include "embedded_recipe.inc"
        ;
}

Recipe read_train_recipe(const std::vector<std::string>& arguments) {
    Recipe recipe(train_keys());
    const std::vector<std::string> words = recipe.read_arguments(arguments);
    if (!words.empty())
        usage_error("unexpected word \"" + words[0] + "\"", "a flag is written -key value; see -h");
    const std::string file = recipe.text("", "recipe");
    if (file.empty()) recipe.read_text(embedded_recipe(), "embedded recipe");
    else recipe.read_text(read_file(file), file);
    return recipe;
}

ModelConfig recipe_model(const Recipe& recipe, int vocab) {
    ModelConfig c = model_preset(recipe.text("", "model"));
    auto override_int = [&](const char* key, int* field, int64_t unset) {
        const int64_t value = recipe.integer("", key);
        if (value != unset) *field = int(value);
    };
    override_int("layers", &c.layers, 0);
    override_int("channels", &c.channels, 0);
    override_int("ffn", &c.ffn, 0);
    override_int("heads", &c.heads, 0);
    override_int("kv_heads", &c.kv_heads, 0);
    override_int("head_dim", &c.head_dim, 0);
    override_int("experts", &c.experts, -1);
    override_int("experts_per_token", &c.experts_per_token, 0);
    override_int("expert_ffn", &c.expert_ffn, 0);
    c.vocab = std::max(c.vocab, vocab);
    override_int("vocab", &c.vocab, 0);
    if (c.vocab < vocab)
        usage_error(format("model: vocab = %d, but the tokenizer has %d tokens", c.vocab, vocab),
                    "leave -vocab at 0 or raise it");
    if (recipe.text("", "tied") != "preset") c.tied = recipe.text("", "tied") == "yes";
    c.norm_eps = recipe.real("", "norm_eps");
    c.router_scale = recipe.real("", "router_scale");
    check_config(c);
    return c;
}

LossShape recipe_loss(const Recipe& recipe, const std::string& stage, int vocab) {
    LossShape shape{};
    shape.V = vocab;
    shape.temperature = 1;
    if (stage == "rl") {
        shape.k = 1;
        shape.temperature = recipe.real(stage, "temperature");
        shape.clip_low = recipe.real(stage, "clip_low");
        shape.clip_high = recipe.real(stage, "clip_high");
        return shape;
    }
    shape.k = int(recipe.integer(stage, "k"));
    shape.beta = recipe.real(stage, "beta");
    if (shape.beta <= -1)
        usage_error(format("[%s] beta = %g: expected > -1", stage.c_str(), shape.beta),
                    "at -1 the gradient of a certain token no longer vanishes (doc/equations.md)");
    shape.lambda_head = recipe.real(stage, "lambda_head");
    shape.lambda_tail = recipe.real(stage, "lambda_tail");
    shape.form =
        recipe.text(stage, "shape") == "factor" ? RewardForm::factor : RewardForm::exponent;
    return shape;
}

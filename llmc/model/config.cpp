// Presets and config.json. Contract: config.h.
#include "llmc/model/config.h"

#include "llmc/core/error.h"

namespace {

struct Preset {
    const char* name;
    ModelConfig config;
};

// tiny*: the embedded recipe's (bytes + end of text). demo*: benchmarks. 1B ... 10B-A0.5B: Table 1
// of arXiv 2512.22955 with the conventions of Qwen3 where it is silent (head_dim 128, vocabulary
// 151936, dense tied, MoE not).
const std::vector<Preset>& presets() {
    // layers channels ffn heads kv head_dim vocab E K expert_ffn tied positions
    static const std::vector<Preset> table = {
        {"tiny", {4, 128, 384, 4, 4, 32, 257, 0, 0, 0, true, 512}},
        {"tiny-moe", {4, 128, 0, 4, 4, 32, 257, 16, 4, 96, true, 512}},
        {"demo", {4, 256, 768, 4, 2, 64, 512, 0, 0, 0, true, 1024}},
        {"demo-moe", {4, 256, 0, 4, 2, 64, 512, 32, 4, 128, true, 1024}},
        {"1B", {28, 1536, 4608, 16, 4, 128, 151936, 0, 0, 0, true, 16384}},
        {"4B", {36, 2560, 9728, 32, 8, 128, 151936, 0, 0, 0, true, 16384}},
        {"5B-A0.3B", {12, 1024, 0, 32, 4, 128, 151936, 384, 12, 320, false, 16384}},
        {"10B-A0.5B", {16, 1536, 0, 32, 4, 128, 151936, 384, 12, 320, false, 16384}},
    };
    return table;
}

} // namespace

ModelConfig model_preset(const std::string& name) {
    std::string all;
    for (const Preset& preset : presets()) {
        if (name == preset.name) return preset.config;
        all += (all.empty() ? "" : ", ") + std::string(preset.name);
    }
    usage_error("model: unknown preset \"" + name + "\"", "the presets are " + all);
}

// Counts are 64-bit integers: what would overflow them is no model.
static void check_size(const ModelConfig& c) {
    const double expert = c.moe() ? double(c.experts) * c.expert_ffn : double(c.ffn);
    const double block = 2.0 * c.q_width() + 2.0 * c.kv_width() + 3 * expert + c.experts;
    const double total = double(c.channels) * (double(c.layers) * block + 2.0 * c.vocab);
    if (total > 1e15)
        usage_error(format("model: %.1e parameters, expected at most 1e15", total),
                    "a digit too many in the shape?");
}

void check_config(const ModelConfig& c) {
    const char* hint = "see -h for the model keys and their ranges";
    auto positive = [&](const char* name, int value, int most) {
        if (value < 1 || value > most)
            usage_error(format("model: %s = %d, expected 1 to %d", name, value, most), hint);
    };
    positive("layers", c.layers, 10'000);
    positive("channels", c.channels, 1'000'000);
    positive("heads", c.heads, 10'000);
    positive("kv_heads", c.kv_heads, 10'000);
    positive("head_dim", c.head_dim, 10'000);
    positive("vocab", c.vocab, 10'000'000);
    positive("max_positions", c.max_positions, 1 << 30);
    if (c.heads % c.kv_heads != 0)
        usage_error(
            format("model: heads = %d is not a multiple of kv_heads = %d", c.heads, c.kv_heads),
            "every key/value head serves the same number of query heads");
    if (c.head_dim % 2 != 0)
        usage_error(format("model: head_dim = %d is odd", c.head_dim),
                    "RoPE rotates pairs of channels");
    if (!c.moe()) {
        positive("ffn", c.ffn, 1'000'000);
        return check_size(c);
    }
    positive("experts", c.experts, 100'000);
    positive("expert_ffn", c.expert_ffn, 1'000'000);
    positive("experts_per_token", c.experts_per_token, 100'000);
    if (c.experts_per_token > c.experts)
        usage_error(format("model: experts_per_token = %d exceeds experts = %d",
                           c.experts_per_token, c.experts),
                    hint);
    check_size(c);
}

ParameterCounts count_parameters(const ModelConfig& c) {
    const int64_t C = c.channels, Q = c.q_width(), KV = c.kv_width();
    const int64_t attention = 2 * C * Q + 2 * C * KV + 2 * c.head_dim, norms = 2 * C;
    const int64_t expert = 3 * C * (c.moe() ? c.expert_ffn : c.ffn);
    const int64_t router = c.moe() ? C * c.experts : 0;
    const int64_t embedding = int64_t(c.vocab) * C;
    auto layers = [&](int64_t experts) {
        return c.layers * (attention + norms + router + experts * expert) + C;
    };
    ParameterCounts n;
    n.non_embedding = layers(c.moe() ? c.experts : 1);
    n.active_non_embedding = layers(c.moe() ? c.experts_per_token : 1);
    n.total = n.non_embedding + (c.tied ? 1 : 2) * embedding;
    return n;
}

double forward_flops(const ModelConfig& c) {
    return 2.0 * double(count_parameters(c).active_non_embedding + int64_t(c.vocab) * c.channels);
}

Json config_to_json(const ModelConfig& c, int end_of_text, Dtype weights) {
    Json j;
    j["architectures"] = Json::array({c.moe() ? "Glm4MoeForCausalLM" : "Qwen3ForCausalLM"});
    j["model_type"] = c.moe() ? "glm4_moe" : "qwen3";
    j["hidden_size"] = c.channels;
    j["intermediate_size"] = c.moe() ? c.expert_ffn * c.experts_per_token : c.ffn;
    j["num_hidden_layers"] = c.layers;
    j["num_attention_heads"] = c.heads;
    j["num_key_value_heads"] = c.kv_heads;
    j["head_dim"] = c.head_dim;
    j["vocab_size"] = c.vocab;
    j["max_position_embeddings"] = c.max_positions;
    j["rms_norm_eps"] = c.norm_eps;
    j["rope_theta"] = c.rope_base;
    j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", c.rope_base}};
    j["tie_word_embeddings"] = c.tied;
    j["hidden_act"] = "silu";
    j["attention_bias"] = false;
    j["attention_dropout"] = 0.0;
    j["use_cache"] = true;
    for (const char* key : {"dtype", "torch_dtype"})
        j[key] = weights == Dtype::bf16 ? "bfloat16" : "float32";
    j["bos_token_id"] = nullptr;
    if (end_of_text >= 0) j["eos_token_id"] = end_of_text;
    else j["eos_token_id"] = nullptr;
    if (!c.moe()) return j;
    j["rope_parameters"]["partial_rotary_factor"] = 1.0;
    j["partial_rotary_factor"] = 1.0;
    j["use_qk_norm"] = true;
    j["n_routed_experts"] = c.experts;
    j["num_experts_per_tok"] = c.experts_per_token;
    j["moe_intermediate_size"] = c.expert_ffn;
    j["n_shared_experts"] = 0;
    j["n_group"] = 1;
    j["topk_group"] = 1;
    j["norm_topk_prob"] = true;
    j["routed_scaling_factor"] = c.router_scale;
    j["first_k_dense_replace"] = 0;
    return j;
}

namespace {

// Typed access to config.json with one message per fault.
struct ConfigReader {
    const Json& json;
    const std::string path;

    [[noreturn]] void fault(const std::string& key, const std::string& expected) const {
        std::string found = json.contains(key) ? json[key].dump() : "nothing";
        fatal(path + ": " + key + ": expected " + expected + ", found " + found,
              "only Qwen3ForCausalLM and Glm4MoeForCausalLM with the documented fields can be "
              "loaded");
    }
    int integer(const char* key) const {
        if (!json.contains(key) || !json[key].is_number_integer()) fault(key, "an integer");
        int64_t value = json[key].get<int64_t>();
        if (value < 0 || value > 1 << 30) fault(key, "an integer in [0, 2^30]");
        return int(value);
    }
    double real(const char* key, double absent) const {
        if (!json.contains(key) || json[key].is_null()) return absent;
        if (!json[key].is_number()) fault(key, "a number");
        return json[key].get<double>();
    }
    bool flag(const char* key, bool absent) const {
        if (!json.contains(key) || json[key].is_null()) return absent;
        if (!json[key].is_boolean()) fault(key, "true or false");
        return json[key].get<bool>();
    }
    void want(const char* key, const Json& wanted) const {
        if (json.contains(key) && !json[key].is_null() && json[key] != wanted)
            fault(key, wanted.dump());
    }
};

// Keys with one value we can honour; absent or null means that value. An MLP bias, a clipped or
// capped attention and the like would load without an error and compute something else.
void check_fixed_keys(const ConfigReader& read, bool moe) {
    read.want("hidden_act", "silu");
    for (const char* key : {"attention_bias", "mlp_bias", "use_sliding_window"})
        read.want(key, false);
    read.want("attention_dropout", 0.0);
    read.want("quantization_config", nullptr);
    if (read.json.contains("layer_types") && read.json["layer_types"].is_array())
        for (const Json& type : read.json["layer_types"])
            if (type != "full_attention") read.fault("layer_types", "only \"full_attention\"");
    if (!moe) return;
    if (!read.flag("use_qk_norm", false)) read.fault("use_qk_norm", "true");
    read.want("norm_topk_prob", true);
    read.want("scoring_func", "sigmoid");
    read.want("topk_method", "noaux_tc");
    if (read.real("first_k_dense_replace", 1) != 0) read.fault("first_k_dense_replace", "0");
    if (read.real("n_shared_experts", 0) != 0) read.fault("n_shared_experts", "0");
    for (const char* key : {"n_group", "topk_group"})
        if (read.real(key, 1) != 1) read.fault(key, "1");
}

// The base of the rotation: rope_parameters of transformers 5, or rope_theta at the top of older
// files; scaling under either name is refused.
double read_rope_base(const ConfigReader& read, bool moe) {
    // GLM rotates half of a head unless told otherwise.
    double rotated = read.real("partial_rotary_factor", moe ? 0.5 : 1.0);
    double base = read.real("rope_theta", 1e4);
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
        if (!read.json.contains(key) || read.json[key].is_null()) continue;
        if (!read.json[key].is_object()) read.fault(key, "an object");
        const ConfigReader rope{read.json[key], read.path + ": " + key};
        for (const char* type : {"rope_type", "type"}) rope.want(type, "default");
        for (const char* scale : {"factor", "attention_factor", "mscale"}) rope.want(scale, 1.0);
        for (const auto& [name, value] : rope.json.items())
            if (value.is_object()) rope.fault(name, "one rotation for all layers");
        base = rope.real("rope_theta", base);
        rotated = rope.real("partial_rotary_factor", rotated);
    }
    if (rotated != 1)
        fatal(read.path + format(": partial_rotary_factor: expected 1.0, found %g", rotated),
              "a head is rotated as a whole here; GLM's default is half of it");
    if (!(base > 0))
        fatal(read.path + format(": rope_theta: expected > 0, found %g", base),
              "the base of the rotation is 10000 or more");
    return base;
}

} // namespace

ModelConfig config_from_json(const Json& json, const std::string& path) {
    if (!json.is_object()) fatal(path + ": expected a JSON object", "this is not a config.json");
    ConfigReader read{json, path};
    if (!json.contains("model_type") || !json["model_type"].is_string() ||
        (json["model_type"] != "qwen3" && json["model_type"] != "glm4_moe"))
        read.fault("model_type", "\"qwen3\" or \"glm4_moe\"");
    const bool moe = json["model_type"] == "glm4_moe";
    const char* architecture = moe ? "Glm4MoeForCausalLM" : "Qwen3ForCausalLM";
    read.want("architectures", Json::array({architecture}));
    check_fixed_keys(read, moe);
    ModelConfig c;
    c.layers = read.integer("num_hidden_layers");
    c.channels = read.integer("hidden_size");
    c.heads = read.integer("num_attention_heads");
    c.kv_heads = read.integer("num_key_value_heads");
    const bool own_width = json.contains("head_dim") && !json["head_dim"].is_null();
    c.head_dim = own_width ? read.integer("head_dim") : c.channels / std::max(c.heads, 1);
    c.vocab = read.integer("vocab_size");
    c.max_positions = read.integer("max_position_embeddings");
    c.tied = read.flag("tie_word_embeddings", false);
    c.norm_eps = read.real("rms_norm_eps", 1e-6);
    if (!(c.norm_eps >= 0 && c.norm_eps < 1)) read.fault("rms_norm_eps", "a number in [0, 1)");
    c.rope_base = read_rope_base(read, moe);
    if (!moe) {
        c.ffn = read.integer("intermediate_size");
    } else {
        c.experts = read.integer("n_routed_experts");
        c.experts_per_token = read.integer("num_experts_per_tok");
        c.expert_ffn = read.integer("moe_intermediate_size");
        c.router_scale = read.real("routed_scaling_factor", 1.0);
    }
    try {
        check_config(c);
    } catch (const UserError& error) {
        fatal(path + ": " + error.what(), "config.json is damaged, or of another kind of model");
    }
    return c;
}

// Hugging Face directories: shards, dtypes, both config spellings, what is refused and how.
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/model/model.h"
#include "llmc/train/export.h"
#include "test/fixture.h"

#include <cstring>
#include <filesystem>
#include <unistd.h>

namespace {

ModelConfig shape(bool moe, bool tied) {
    ModelConfig c = model_preset(moe ? "tiny-moe" : "tiny");
    c.layers = 2;
    c.channels = 48;
    c.heads = 3;
    c.kv_heads = 1;
    c.head_dim = 16;
    c.tied = tied;
    return c;
}

void same_files(const std::string& a, const std::string& b) {
    REQUIRE(list_directory(a) == list_directory(b));
    for (const std::string& name : list_directory(a)) {
        INFO(name);
        CHECK(read_file(a + "/" + name) == read_file(b + "/" + name));
    }
}

// Every tensor of a file in this dtype: routers too, as other programs write them. F16 gets other
// values, of all exponents below 2; F64 such as lie beside the middle of two BF16: rounded to fp32
// in between, as masters are, they fall on it.
void store_again(const std::string& path, Dtype dtype) {
    const SafetensorsFile file(path);
    std::vector<SafetensorsWriter::Spec> specs;
    for (const TensorEntry& entry : file.entries())
        specs.push_back({entry.name, dtype, entry.shape});
    SafetensorsWriter writer(path + ".new", specs); // what is read is mapped
    Rng rng(7, 1);
    for (const TensorEntry& entry : file.entries()) {
        std::vector<char> values(size_t(entry.size()) * dtype_bytes(dtype));
        for (int64_t i = 0; dtype == Dtype::f16 && i < entry.size(); i++) {
            const uint16_t bits = uint16_t(rng.next_u64() & 0xbfff);
            std::memcpy(values.data() + i * 2, &bits, 2);
        }
        if (dtype != Dtype::f16)
            convert_values(file.data(entry), entry.dtype, values.data(), dtype, entry.size());
        for (int64_t i = 0; dtype == Dtype::f64 && i < entry.size(); i++) {
            const double value = (1 + double(rng.next_u64() % 128) / 128 + 0x1p-8) *
                                 (1 + (rng.next_u64() % 2 ? 0x1p-40 : -0x1p-40));
            std::memcpy(values.data() + i * 8, &value, 8);
        }
        writer.append(values.data(), values.size());
    }
    writer.finish();
    std::filesystem::rename(path + ".new", path);
}

std::string bytes_of(const Model& model) {
    const View flat = model.weights.flat();
    return std::string(static_cast<const char*>(flat.data), flat.bytes());
}

} // namespace

TEST_CASE("weight files: export, load, export again is byte for byte the same", "[weights]") {
    for (bool moe : {false, true})
        for (Dtype dtype : {Dtype::f32, Dtype::bf16})
            for (uint64_t shard_bytes : {0, 60'000}) {
                Folder folder;
                Ctx ctx(Backend::cpu, 0);
                Model model(ctx, shape(moe, false));
                init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.05);
                const std::string first = folder.path + "/first", second = folder.path + "/second";
                make_directories(first);
                save_weights(model, first, 256, {dtype, shard_bytes});
                Tokenizer().save(first);
                CHECK(path_exists(first + "/model.safetensors") == (shard_bytes == 0));
                CHECK(path_exists(first + "/model.safetensors.index.json") == (shard_bytes > 0));
                export_checkpoint(first, folder_tokenizer(first), second, {dtype, shard_bytes});
                same_files(first, second);
                Model again(ctx, read_config(second));
                load_weights(again, second);
                CHECK((bytes_of(again) == bytes_of(model)) == (dtype == Dtype::f32));
                const std::string third = folder.path + "/third";
                make_directories(third);
                save_weights(again, third, 256, {dtype, shard_bytes});
                Tokenizer().save(third);
                same_files(first, third);
            }
}

TEST_CASE("weight files: what is rounded to BF16 is what the header says", "[weights]") {
    Folder folder;
    Ctx ctx(Backend::cpu, 0);
    Model model(ctx, shape(true, true));
    init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.05);
    save_weights(model, folder.path, 256, {Dtype::bf16, 0});
    const SafetensorsFile file(folder.path + "/model.safetensors");
    int exact = 0;
    for (const Param& param : model.table.params) {
        const TensorEntry& entry = file.at(param.name);
        const bool router = contains(param.name, "mlp.gate.");
        CHECK(entry.dtype == (router ? Dtype::f32 : Dtype::bf16));
        const std::vector<double> values = file.read_f64(param.name);
        const View view = model.weights.tensor(param);
        for (int64_t i = 0; i < param.size; i++) {
            const float value = view.as<float>()[i];
            REQUIRE(values[i] == double(router ? value : bf16_to_float(float_to_bf16(value))));
            exact += values[i] == double(value);
        }
    }
    CHECK(exact > 0);
    const Json config = json_parse(read_file(folder.path + "/config.json"), "config.json");
    CHECK(config["dtype"] == "bfloat16");
    CHECK(config["torch_dtype"] == "bfloat16");
}

TEST_CASE("weight files: without masters the passes read the same bits from less memory",
          "[weights]") {
    const bool moe = GENERATE(false, true);
    const Dtype stored = GENERATE(Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::f16);
    CAPTURE(moe, dtype_name(stored));
    Folder folder;
    Ctx plain(Backend::cpu, 0), with(Backend::cpu, 0, true), without(Backend::cpu, 0, true);
    Model made(plain, shape(moe, false));
    init_params(plain, made.weights, made.table, made.config, 5, 0.05);
    save_weights(made, folder.path, 256, {Dtype::f32, 0});
    store_again(folder.path + "/model.safetensors", stored);
    Model kept(with, made.config), bare(without, made.config, Masters::none);
    for (Model* model : {&kept, &bare}) load_weights(*model, folder.path);
    for (const Param& param : made.table.params) {
        INFO(param.name);
        const View want = kept.pass_weights().tensor(param),
                   got = bare.pass_weights().tensor(param);
        CHECK(got.dtype == (param.routes() ? Dtype::f32 : Dtype::bf16));
        REQUIRE(got.dtype == want.dtype);
        CHECK(std::memcmp(got.data, want.data, want.bytes()) == 0);
    }
    for (int l = 0; moe && l < made.config.layers; l++) { // what the ops take is what was loaded
        const BlockParams &want = kept.pass_weights().block(l), &got = bare.pass_weights().block(l);
        CHECK(std::memcmp(got.router.data, want.router.data, want.router.bytes()) == 0);
        CHECK(got.router_bias.dtype == Dtype::f32);
    }
    const auto taken = [](const Ctx& ctx) { return double(ctx.arena.bytes(Segment::parameters)); };
    const double rope = double(kept.rope().bytes());
    CHECK(taken(without) - rope < 0.4 * (taken(with) - rope)); // 2 bytes of 6, and fp32 routers
}

TEST_CASE("weight files: a tensor read in several parts is whole", "[weights]") {
    const bool half = GENERATE(false, true);
    CAPTURE(half);
    const Folder folder;
    ModelConfig config = shape(false, true);
    config.layers = 1;
    config.vocab = (2 << 21) / config.channels + 300; // two full parts and a rest
    Ctx ctx(Backend::cpu, 0), reader(Backend::cpu, 0, half);
    Model made(ctx, config);
    const View flat = made.weights.flat();
    for (int64_t i = 0; i < flat.size(); i++) // no two parts alike; exact in bf16
        write_value(flat, i, double(i % 251) + (i >> 20 & 1 ? 0.5 : 0) * (i % 251 < 128));
    save_weights(made, folder.path, 256, {half ? Dtype::bf16 : Dtype::f32, 0});
    Model read(reader, config, Masters::none);
    load_weights(read, folder.path);
    for (const Param& param : made.table.params) {
        INFO(param.name);
        const View want = made.weights.tensor(param), got = read.pass_weights().tensor(param);
        int64_t wrong = 0;
        for (int64_t i = 0; i < param.size; i++) wrong += read_value(got, i) != read_value(want, i);
        CHECK(wrong == 0);
    }
}

TEST_CASE("weight files: a file cut while it is read is named with the byte", "[weights]") {
    const Folder folder;
    const std::string path = folder.path + "/x";
    write_file_atomic(path, "0123456789");
    const MappedFile file(path);
    char got[6] = {};
    file.read(got, 3, 5);
    CHECK(std::string(got) == "34567");
    std::filesystem::resize_file(path, 7);
    CHECK(contains(message_of([&] { file.read(got, 3, 5); }),
                   path + " ends at byte 7, it had 10 bytes"));
}

TEST_CASE("weight files: F16 is read to the last bit, its odd values too", "[weights]") {
    // zero, smallest subnormal, largest subnormal, 1, -2, largest, infinity; 1/3 rounded
    const std::vector<uint16_t> bits = {0x0000, 0x0001, 0x03ff, 0x3c00,
                                        0xc000, 0x7bff, 0x7c00, 0x3555};
    const std::vector<float> want = {0, 0x1p-24f, 0x3ffp-24f, 1, -2, 65504, INFINITY, 0x1.554p-2f};
    std::vector<float> got(bits.size());
    convert_values(bits.data(), Dtype::f16, got.data(), Dtype::f32, int64_t(bits.size()));
    CHECK(got == want);
    float nan;
    const uint16_t nan_bits = 0x7e00;
    convert_values(&nan_bits, Dtype::f16, &nan, Dtype::f32, 1);
    CHECK(nan != nan);
    // From an odd address, as in a file whose header has an odd length.
    std::vector<char> odd(1 + bits.size() * 2);
    std::memcpy(odd.data() + 1, bits.data(), bits.size() * 2);
    convert_values(odd.data() + 1, Dtype::f16, got.data(), Dtype::f32, int64_t(bits.size()));
    CHECK(got == want);
}

TEST_CASE("weight files: a shard missing, doubled or of another checkpoint is named", "[weights]") {
    Folder folder;
    Ctx ctx(Backend::cpu, 0);
    Model model(ctx, shape(false, true));
    save_weights(model, folder.path, 256, {Dtype::f32, 60'000});
    auto load = [&] { return message_of([&] { load_weights(model, folder.path); }); };
    REQUIRE(load() == "");
    const std::string index = folder.path + "/model.safetensors.index.json";
    const std::string good = read_file(index);
    Json json = json_parse(good, index);
    const std::string file = json["weight_map"]["model.norm.weight"].get<std::string>();
    auto with = [&](const Json& place) {
        Json changed = json;
        changed["weight_map"]["model.norm.weight"] = place;
        write_file_atomic(index, changed.dump());
        return load();
    };
    CHECK(contains(with("model-00001-of" + file.substr(file.find("-of") + 3)), "the index "));
    CHECK(contains(with("../elsewhere.safetensors"), "expected a file name in the same folder"));
    CHECK(contains(with(7), "expected a file name in the same folder, found 7"));
    CHECK(contains(with("none.safetensors"), "none.safetensors"));
    write_file_atomic(index, good);
    const std::string shard = read_file(folder.path + "/" + file);
    write_file_atomic(folder.path + "/" + file, shard.substr(0, shard.size() - 1));
    CHECK(contains(load(), file));
    std::filesystem::remove(folder.path + "/" + file);
    CHECK(contains(load(), file));
}

TEST_CASE("weight files: a safetensors header that lies is refused with its place", "[weights]") {
    Folder folder;
    const std::string path = folder.path + "/x.safetensors";
    auto open = [&](const std::string& header, size_t data_bytes) {
        const uint64_t size = header.size();
        std::string file(reinterpret_cast<const char*>(&size), 8);
        write_file_atomic(path, file + header + std::string(data_bytes, '\0'));
        return message_of([&] { SafetensorsFile opened(path); });
    };
    const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
    const std::string b = R"("b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]})";
    const std::string empty = R"("e":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]})";
    CHECK(open("{" + a + "," + b + "}", 12) == "");
    CHECK(open("{" + a + "," + empty + "," + b + "}", 12) == "");
    CHECK(open("{\"__metadata__\":{\"format\":\"pt\"}," + a + "}   ", 8) == "");
    CHECK(contains(open("{" + a + "," + a + "}", 8), "\"a\" appears twice"));
    CHECK(contains(open("{" + a + "," + empty + "," + empty + "}", 8), "\"e\" appears twice"));
    CHECK(contains(open("{" + a + "," + b + "}", 13), "tensors end at byte"));
    CHECK(contains(open("{" + a + "}", 7), "tensor a: data_offsets"));
    CHECK(contains(open("{" + b + "}", 12), "hole or overlap"));
    CHECK(contains(open(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), "shape"));
    CHECK(contains(open(R"({"a":{"dtype":"I4","shape":[3],"data_offsets":[0,8]}})", 8), "I4"));
    CHECK(contains(
        open(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
        "shape too large"));
    CHECK(contains(open(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}})", 8), "shape"));
    CHECK(contains(open("[1]", 0), "not a JSON object"));
    CHECK(contains(open("{\"a\":", 0), "not valid JSON"));
    write_file_atomic(path, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
    CHECK(contains(message_of([&] { SafetensorsFile opened(path); }), "header length"));
}

TEST_CASE("weight files: both spellings of config.json say the same", "[weights]") {
    for (bool moe : {false, true}) {
        ModelConfig c = shape(moe, false);
        c.rope_base = 1e6;
        const Json both = config_to_json(c, 256, Dtype::f32);
        Json old = both, current = both;
        old.erase("rope_parameters");
        old.erase("dtype");
        current.erase("rope_theta");
        current.erase("torch_dtype");
        current.erase("partial_rotary_factor");
        for (const Json& json : {both, old, current}) CHECK(config_from_json(json, "x") == c);
    }
}

TEST_CASE("weight files: what would load and compute something else is refused by its key",
          "[weights]") {
    struct Case {
        const char* key;
        Json value;
    };
    const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}};
    const Json linear = {{"rope_type", "default"}, {"factor", 2.0}};
    const Json half = {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}};
    const std::vector<Case> dense = {
        {"architectures", Json::array({"Qwen3ForSequenceClassification"})},
        {"architectures", Json::array({"LlamaForCausalLM"})},
        {"model_type", "qwen3_moe"},
        {"attention_bias", true},
        {"mlp_bias", true},
        {"use_sliding_window", true},
        {"layer_types", Json::array({"full_attention", "sliding_attention"})},
        {"hidden_act", "gelu"},
        {"rope_scaling", yarn},
        {"rope_type", yarn},
        {"factor", linear},
        {"partial_rotary_factor", half},
        {"partial_rotary_factor", 0.5},
        {"quantization_config", {{"quant_method", "gptq"}}},
        {"attention_dropout", 0.1},
        {"num_attention_heads", 1 << 29},
        {"head_dim", 0},
        {"rope_theta", 0.0},
        {"rms_norm_eps", -1.0},
    };
    const std::vector<Case> moe = {{"use_qk_norm", false},
                                   {"norm_topk_prob", false},
                                   {"scoring_func", "softmax"},
                                   {"first_k_dense_replace", 1},
                                   {"n_shared_experts", 1},
                                   {"n_group", 8},
                                   {"topk_group", 4},
                                   {"num_experts_per_tok", 99},
                                   {"topk_method", "group_limit"}};
    auto refused = [](Json json, const Case& c) {
        const bool rope = contains(c.key, "rope_t") || contains(c.key, "factor");
        if (rope && c.value.is_object()) json["rope_parameters"] = c.value;
        else json[c.key] = c.value;
        if (rope && !c.value.is_object()) json.erase("rope_parameters");
        const std::string said = message_of([&] { config_from_json(json, "dir/config.json"); });
        INFO(c.key << " " << c.value << ": " << said);
        const std::string key = std::string(c.key) == "num_attention_heads"   ? "heads"
                                : std::string(c.key) == "num_experts_per_tok" ? "experts_per_token"
                                                                              : c.key;
        CHECK((contains(said, "dir/config.json") && contains(said, key)));
    };
    for (const Case& c : dense) refused(config_to_json(shape(false, true), 256, Dtype::f32), c);
    for (const Case& c : moe) refused(config_to_json(shape(true, true), 256, Dtype::f32), c);
}

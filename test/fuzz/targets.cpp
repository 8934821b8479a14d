// Contract: targets.h.
#include "test/fuzz/targets.h"

#include "llmc/core/safetensors.h"
#include "llmc/data/problems.h"
#include "llmc/data/shard.h"
#include "llmc/data/source.h"
#include "llmc/model/config.h"
#include "llmc/train/keys.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace {

// The bytes under a path, in memory.
struct BytesFile {
    int fd;
    std::string path;
    explicit BytesFile(const std::string& bytes) : fd(memfd_create("fuzz", 0)) {
        if (fd < 0 || ::write(fd, bytes.data(), bytes.size()) != ssize_t(bytes.size()))
            std::abort();
        path = "/proc/self/fd/" + std::to_string(fd);
    }
    ~BytesFile() { ::close(fd); }
};

void read_safetensors(const std::string& bytes) {
    const BytesFile file(bytes);
    const SafetensorsFile opened(file.path);
    for (const TensorEntry& entry : opened.entries()) opened.read_f64(entry.name);
}

void read_config_json(const std::string& bytes) {
    const ModelConfig config = config_from_json(json_parse(bytes, "config.json"), "config.json");
    count_parameters(config);
    // What was accepted is written and read as the same model.
    const Json again = config_to_json(config, 0, Dtype::f32);
    if (!(config_from_json(again, "again") == config)) std::abort();
}

void read_tokenizer_json(const std::string& bytes) {
    const BytesFile file(bytes);
    const Tokenizer tokenizer(file.path);
    for (const char* text :
         {"Hello, world! 1234", "a\xff\xc3\xa9\n\n  \xe4\xbd\xa0", "<|endoftext|>"})
        tokenizer.decode(tokenizer.encode_whole(text), Specials::keep);
}

void read_shard(const std::string& bytes) {
    static const Tokenizer tokenizer;
    auto open = [&](const std::string& content) {
        const BytesFile file(content);
        const Shard shard(file.path, tokenizer);
        for (int64_t i = 0; i < shard.documents(); i++) shard.document(i);
    };
    // With the right checksum and tokenizer, which no fuzzer finds, what lies behind them is read.
    std::string summed = bytes;
    if (summed.size() > 64) {
        uint64_t documents, tokens;
        uint32_t token_bytes, masked;
        const uint64_t hash = tokenizer.hash();
        std::memcpy(&token_bytes, summed.data() + 12, 4);
        std::memcpy(&documents, summed.data() + 24, 8);
        std::memcpy(&tokens, summed.data() + 32, 8);
        std::memcpy(&masked, summed.data() + 48, 4);
        std::memcpy(summed.data() + 40, &hash, 8);
        const uint64_t data = tokens * token_bytes + (masked ? (tokens + 7) / 8 : 0);
        if (documents < summed.size() && data <= summed.size() - 64)
            shard_checksums(summed, documents, data);
        try {
            open(summed);
        } catch (const UserError&) {
        }
    }
    open(bytes);
}

void read_problem(const std::string& bytes) {
    try {
        parse_problem(bytes, "problems.jsonl:1");
    } catch (const UserError&) {
    }
    parse_jsonl_row(bytes, "text.jsonl:1");
}

void read_recipe(const std::string& bytes) {
    Recipe recipe(train_keys());
    recipe.read_text(bytes, "recipe.ini");
    Recipe again(train_keys()); // the printed recipe is one
    again.read_text(recipe.resolved(), "again");
    if (again.resolved() != recipe.resolved()) std::abort();
}

} // namespace

const FuzzTarget fuzz_targets[kFuzzTargets] = {
    {"safetensors", read_safetensors},  {"config", read_config_json},
    {"tokenizer", read_tokenizer_json}, {"shard", read_shard},
    {"problem", read_problem},          {"recipe", read_recipe},
};

void fuzz_one(const FuzzTarget& target, const std::string& bytes) {
    try {
        target.read(bytes);
    } catch (const UserError& error) {
        if (*error.what() && !error.hint.empty()) return;
        std::fprintf(stderr, "%s: a message without words or hint: \"%s\"\n", target.name,
                     error.what());
        std::abort();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", target.name, error.what());
        std::abort();
    }
}

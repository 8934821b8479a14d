// Contract: weight_files.h.
#include "llmc/model/weight_files.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <set>

namespace {

const char* const kSingleFile = "model.safetensors";
const char* const kIndexFile = "model.safetensors.index.json";
const char* const kMixed = "config.json and the weights do not belong together";

std::string list_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (int64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
    return text + "]";
}

// tensor -> file of an index.
std::map<std::string, std::string> read_index(const std::string& path) {
    const SortedJson index = json_parse_sorted(read_file(path), path);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
        fatal(path + ": expected an object with \"weight_map\"",
              "this is not the index of a sharded checkpoint");
    std::map<std::string, std::string> files;
    for (const auto& [tensor, file] : index["weight_map"].items()) {
        const std::string name = file.is_string() ? file.get<std::string>() : "";
        if (name.empty() || name.find('/') != std::string::npos || name[0] == '.')
            fatal(path + ": weight_map: " + tensor +
                      ": expected a file name in the same folder, found " + file.dump(),
                  "the index is damaged; fetch or write it again");
        files[tensor] = name;
    }
    return files;
}

} // namespace

ModelConfig read_config(const std::string& directory) {
    const std::string path = directory + "/config.json";
    return config_from_json(json_parse(read_file(path), path), path);
}

ModelConfig read_config(const std::string& directory, int tokens) {
    const ModelConfig config = read_config(directory);
    if (config.vocab < tokens)
        fatal(format("%s: the model has %d tokens, the tokenizer %d", directory.c_str(),
                     config.vocab, tokens),
              "use the checkpoint with the tokenizer.json it was trained with");
    return config;
}

// ------------------------------------------------------------------------------------------------
// reading

WeightFiles::WeightFiles(const std::string& directory) : directory_(directory) {
    const std::string index_path = directory + "/" + kIndexFile;
    std::map<std::string, std::string> index;
    std::set<std::string> names = {kSingleFile};
    if (path_exists(index_path)) {
        index = read_index(index_path);
        names.clear();
        for (const auto& [tensor, file] : index) names.insert(file);
    }
    for (const std::string& name : names) {
        files_.push_back(std::make_unique<SafetensorsFile>(directory + "/" + name));
        for (const TensorEntry& entry : files_.back()->entries()) {
            if (!places_.emplace(entry.name, Place{files_.back().get(), &entry}).second)
                fatal(directory + ": " + entry.name + " is in " +
                          places_.at(entry.name).file->path() + " and in " + files_.back()->path(),
                      "shards of different checkpoints? Fetch them again");
            const auto listed = index.find(entry.name);
            if (!index.empty() && (listed == index.end() || listed->second != name))
                fatal(index_path + ": " + entry.name + " is in " + name + ", the index says " +
                          (listed == index.end() ? "nothing of it" : listed->second),
                      "shards of different checkpoints? Fetch them again");
        }
    }
    for (const auto& [tensor, file] : index)
        if (!places_.count(tensor))
            fatal(directory + "/" + file + ": no tensor " + tensor + ", which the index puts there",
                  "shards of different checkpoints? Fetch them again");
}

void WeightFiles::check(const ModelConfig& config, const ParamTable& table) const {
    for (const Param& param : table.params) {
        const auto it = places_.find(param.name);
        if (it == places_.end()) fatal(directory_ + ": no tensor " + param.name, kMixed);
        const TensorEntry& entry = *it->second.entry;
        const std::string where = it->second.file->path() + ": " + param.name;
        if (entry.shape != param.shape)
            fatal(where + ": expected shape " + list_text(param.shape) + ", found " +
                      list_text(entry.shape),
                  kMixed);
        if (entry.dtype != Dtype::f64 && entry.dtype != Dtype::f32 && entry.dtype != Dtype::bf16 &&
            entry.dtype != Dtype::f16)
            fatal(where + ": expected F32, BF16, F16 or F64, found " + dtype_name(entry.dtype),
                  "quantised checkpoints cannot be loaded");
    }
    for (const auto& [name, place] : places_) {
        const bool extra_head = config.tied && name == "lm_head.weight";
        if (place.entry->size() > 0 && !extra_head && !table.find(name))
            fatal(place.file->path() + ": unexpected tensor " + name,
                  "the model has parts this program does not compute");
    }
}

const void* WeightFiles::values(const Param& param, Dtype* dtype) const {
    const Place& place = places_.at(param.name);
    *dtype = place.entry->dtype;
    return place.file->data(*place.entry);
}

const MappedFile& WeightFiles::place(const Param& param, Dtype* dtype, size_t* offset) const {
    const Place& place = places_.at(param.name);
    *dtype = place.entry->dtype;
    *offset = place.file->offset(*place.entry);
    return place.file->file();
}

uint64_t WeightFiles::bytes() const {
    uint64_t sum = 0;
    for (const auto& file : files_) sum += file_size(file->path());
    return sum;
}

// ------------------------------------------------------------------------------------------------
// writing

namespace {

struct StoredTensor {
    const Param* param; // null = empty
    SafetensorsWriter::Spec spec;
    uint64_t bytes() const { return param ? uint64_t(param->size) * dtype_bytes(spec.dtype) : 0; }
};

std::vector<StoredTensor> stored_tensors(const ModelConfig& config, const ParamTable& table,
                                         Dtype dtype) {
    std::vector<StoredTensor> tensors;
    for (const Param& param : table.params) {
        tensors.push_back({&param, {param.name, param.routes() ? Dtype::f32 : dtype, param.shape}});
    }
    if (!config.moe()) return tensors;
    // transformers builds a shared expert of width 0 and asks for it.
    const int64_t C = config.channels;
    for (int l = 0; l < config.layers; l++)
        for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
            const bool down = std::string(part) == "down_proj";
            tensors.push_back(
                {nullptr,
                 {format("model.layers.%d.mlp.shared_experts.%s.weight", l, part), dtype,
                  down ? std::vector<int64_t>{C, 0} : std::vector<int64_t>{0, C}}});
        }
    return tensors;
}

// Tensors in their order, a new file where one more would pass the limit.
std::vector<std::vector<StoredTensor>> cut_shards(const std::vector<StoredTensor>& tensors,
                                                  uint64_t shard_bytes) {
    std::vector<std::vector<StoredTensor>> shards(1);
    uint64_t filled = 0;
    for (const StoredTensor& tensor : tensors) {
        if (shard_bytes > 0 && filled > 0 && filled + tensor.bytes() > shard_bytes) {
            shards.emplace_back();
            filled = 0;
        }
        filled += tensor.bytes();
        shards.back().push_back(tensor);
    }
    return shards;
}

uint64_t write_shard_file(const std::string& path, const std::vector<StoredTensor>& tensors,
                          const TensorReader& read) {
    std::vector<SafetensorsWriter::Spec> specs;
    for (const StoredTensor& tensor : tensors) specs.push_back(tensor.spec);
    SafetensorsWriter writer(path, specs);
    std::vector<char> converted;
    for (const StoredTensor& tensor : tensors) {
        if (!tensor.param) {
            writer.append(nullptr, 0);
            continue;
        }
        Dtype dtype;
        const void* values = read(*tensor.param, &dtype);
        if (dtype != tensor.spec.dtype) {
            converted.resize(tensor.bytes());
            convert_values(values, dtype, converted.data(), tensor.spec.dtype, tensor.param->size);
            values = converted.data();
        }
        writer.append(values, tensor.bytes());
    }
    return writer.finish();
}

Json generation_config(int end_of_text) {
    Json j;
    j["_from_model_config"] = true;
    if (end_of_text >= 0) j["eos_token_id"] = end_of_text;
    j["use_cache"] = true;
    return j;
}

} // namespace

std::map<std::string, uint64_t>
write_model_files(const std::string& directory, const ModelConfig& config, const ParamTable& table,
                  int end_of_text, const WeightFormat& weights, const TensorReader& read) {
    std::map<std::string, uint64_t> hashes;
    auto write_json = [&](const char* name, const Json& json) {
        const std::string text = json.dump(2) + "\n";
        write_file_atomic(directory + "/" + name, text);
        hashes[name] = hash64(text.data(), text.size());
    };
    write_json("config.json", config_to_json(config, end_of_text, weights.dtype));
    write_json("generation_config.json", generation_config(end_of_text));
    const auto shards =
        cut_shards(stored_tensors(config, table, weights.dtype), weights.shard_bytes);
    SortedJson map;
    uint64_t total = 0;
    for (size_t i = 0; i < shards.size(); i++) {
        const std::string name =
            shards.size() == 1 ? kSingleFile
                               : format("model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
        hashes[name] = write_shard_file(directory + "/" + name, shards[i], read);
        for (const StoredTensor& tensor : shards[i]) {
            map[tensor.spec.name] = name;
            total += tensor.bytes();
        }
    }
    if (shards.size() == 1) return hashes;
    write_json(kIndexFile, Json{{"metadata", {{"total_size", total}}}, {"weight_map", map}});
    return hashes;
}

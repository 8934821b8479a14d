// Contract: model.h.
#include "llmc/model/model.h"

#include "llmc/core/safetensors.h"
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/rope.h"

#include <algorithm>
#include <memory>

Model::Model(Ctx& ctx, const ModelConfig& c)
    : config(c), table(c), weights(c, table, ctx.dtype(), "weights") {
    fill_rope();
    if (ctx.storage() != Dtype::bf16) return;
    copy_ = std::make_unique<ParamSet>(c, table, Dtype::bf16, "weights in bf16");
    copy_->share_routers(weights);
}

size_t Model::bytes() const {
    return weights.flat().bytes() + (copy_ ? copy_->trained().bytes() : 0);
}

void Model::weights_changed() {
    version_++;
    if (!copy_) return;
    constexpr int64_t kPart = 1 << 16;
    const View from = weights.trained(), to = copy_->trained();
    parallel_for((from.size() + kPart - 1) / kPart, [&](int64_t part) {
        const int64_t begin = part * kPart, count = std::min(kPart, from.size() - begin);
        convert(const_cast<View&>(to).as<bf16>() + begin, from.as<float>() + begin, count);
    });
}

void Model::fill_rope() {
    rope_ = Buffer(weights.flat().dtype, "rope", config.max_positions, config.head_dim);
    rope_table_fill(rope_.view(), config.rope_base);
}

void Model::set_rope_base(double base) {
    config.rope_base = base;
    fill_rope();
}

// ------------------------------------------------------------------------------------------------
// Hugging Face directories

ModelConfig read_config(const std::string& directory) {
    const std::string path = directory + "/config.json";
    return config_from_json(json_parse(read_file(path), path), path);
}

namespace {

// The files of a checkpoint, one or several.
std::vector<std::unique_ptr<SafetensorsFile>> open_weights(const std::string& directory) {
    std::vector<std::unique_ptr<SafetensorsFile>> files;
    const std::string single = directory + "/model.safetensors";
    const std::string index_path = directory + "/model.safetensors.index.json";
    if (!path_exists(index_path)) {
        files.push_back(std::make_unique<SafetensorsFile>(single));
        return files;
    }
    const Json index = json_parse(read_file(index_path), index_path);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
        fatal(index_path + ": expected an object with \"weight_map\"",
              "this is not the index of a sharded checkpoint");
    std::vector<std::string> names;
    for (const auto& [tensor, file] : index["weight_map"].items()) {
        if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos)
            fatal(index_path + ": weight_map: " + tensor +
                      ": expected a file name in the same folder",
                  "the index is damaged");
        names.push_back(file.get<std::string>());
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    for (const std::string& name : names)
        files.push_back(std::make_unique<SafetensorsFile>(directory + "/" + name));
    return files;
}

std::string list_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (int64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
    return text + "]";
}

} // namespace

void load_weights(Model& model, const std::string& directory) {
    const auto files = open_weights(directory);
    size_t known = 0, present = 0;
    for (const Param& param : model.table.params) {
        const SafetensorsFile* file = nullptr;
        const TensorEntry* entry = nullptr;
        for (const auto& f : files)
            if (const TensorEntry* found = f->find(param.name)) file = f.get(), entry = found;
        if (!entry)
            fatal(directory + ": no tensor " + param.name,
                  "config.json and the weights do not belong together");
        if (entry->shape != param.shape)
            fatal(directory + ": " + param.name + ": expected shape " + list_text(param.shape) +
                      ", found " + list_text(entry->shape),
                  "config.json and the weights do not belong together");
        if (entry->dtype != Dtype::f64 && entry->dtype != Dtype::f32 &&
            entry->dtype != Dtype::bf16 && entry->dtype != Dtype::f16)
            fatal(directory + ": " + param.name + ": expected a floating-point dtype, found " +
                      dtype_name(entry->dtype),
                  "quantised checkpoints cannot be loaded");
        View view = model.weights.tensor(param);
        convert_values(file->data(*entry), entry->dtype, view.data, view.dtype, param.size);
        known++;
    }
    model.weights_changed();
    // Empty tensors (a shared expert of width 0) and the tied head's copy are the only extras.
    for (const auto& f : files)
        for (const TensorEntry& entry : f->entries()) {
            const bool extra_head = model.config.tied && entry.name == "lm_head.weight";
            if (entry.size() > 0 && !extra_head) {
                present++;
                if (!model.table.find(entry.name))
                    fatal(directory + ": unexpected tensor " + entry.name,
                          "the model has parts this program does not compute");
            }
        }
    require(known == present, "load_weights: %zu tensors known, %zu present", known, present);
}

uint64_t save_weights(const Model& model, const std::string& directory, int end_of_text) {
    write_file_atomic(directory + "/config.json",
                      config_to_json(model.config, end_of_text).dump(2) + "\n");
    std::vector<SafetensorsWriter::Spec> specs;
    for (const Param& param : model.table.params)
        specs.push_back({param.name, Dtype::f32, param.shape});
    if (model.config.moe()) // transformers builds a shared expert of width 0 and asks for it
        for (int l = 0; l < model.config.layers; l++)
            for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
                const bool down = std::string(part) == "down_proj";
                specs.push_back({format("model.layers.%d.mlp.shared_experts.%s.weight", l, part),
                                 Dtype::f32,
                                 down ? std::vector<int64_t>{model.config.channels, 0}
                                      : std::vector<int64_t>{0, model.config.channels}});
            }
    SafetensorsWriter writer(directory + "/model.safetensors", specs);
    std::vector<float> row;
    for (const SafetensorsWriter::Spec& spec : specs) {
        const Param* param = model.table.find(spec.name);
        if (!param) {
            writer.append(nullptr, 0);
            continue;
        }
        const View view = model.weights.tensor(*param);
        if (view.dtype == Dtype::f32) {
            writer.append(view.data, size_t(param->size) * sizeof(float));
            continue;
        }
        row.assign(view.as<double>(), view.as<double>() + param->size);
        writer.append(row.data(), row.size() * sizeof(float));
    }
    return writer.finish();
}

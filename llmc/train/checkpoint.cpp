// Contract: checkpoint.h.
#include "llmc/train/checkpoint.h"

#include "llmc/core/safetensors.h"

#include <algorithm>
#include <cstdlib>
#include <sys/stat.h>

namespace {

const char* kOptimizerFile = "optimizer.rank0.safetensors";

std::string step_name(int64_t step) { return format("step_%08lld", (long long)step); }

// The moments, and in double also the weights: model.safetensors holds those as F32.
struct MomentSet {
    const char* prefix;
    const ParamSet* values;
};

std::vector<MomentSet> moment_sets(const CheckpointParts& parts) {
    std::vector<MomentSet> sets = {{"exp_avg.", &parts.optimizer.first_moment()},
                                   {"exp_avg_sq.", &parts.optimizer.second_moment()}};
    if (parts.model.weights.flat().dtype == Dtype::f64)
        sets.push_back({"weight.", &parts.model.weights});
    return sets;
}

uint64_t save_optimizer(const std::string& path, const CheckpointParts& parts) {
    std::vector<SafetensorsWriter::Spec> specs;
    for (const MomentSet& set : moment_sets(parts))
        for (const Param& p : parts.model.table.params)
            specs.push_back({set.prefix + p.name, set.values->flat().dtype, p.shape});
    SafetensorsWriter writer(path, specs);
    for (const MomentSet& set : moment_sets(parts))
        for (const Param& p : parts.model.table.params) {
            const View view = set.values->tensor(p);
            writer.append(view.data, view.bytes());
        }
    return writer.finish();
}

void load_optimizer(const std::string& path, const CheckpointParts& parts) {
    SafetensorsFile file(path);
    for (const MomentSet& set : moment_sets(parts))
        for (const Param& p : parts.model.table.params) {
            const TensorEntry& entry = file.at(set.prefix + p.name);
            const View view = set.values->tensor(p);
            if (entry.shape != p.shape || entry.dtype != view.dtype)
                fatal(path + ": " + entry.name + " has another shape or dtype than the model",
                      "the checkpoint was made with another model or -device");
            convert_values(file.data(entry), entry.dtype, view.data, view.dtype, p.size);
        }
}

std::string hash_of_file(const std::string& path) {
    MappedFile file(path);
    return hash_text(hash64(file.data(), file.size()));
}

// "" or what is wrong with the folder.
std::string inspect(const std::string& folder, Json* state) {
    const std::string path = folder + "/state.json";
    if (!path_exists(path)) return "has no state.json";
    *state = json_parse(read_file(path), path);
    if (!state->is_object() || !state->contains("checksums")) return "state.json has no checksums";
    for (const auto& [name, hash] : (*state)["checksums"].items()) {
        if (!path_exists(folder + "/" + name)) return "has no " + name;
        if (hash_of_file(folder + "/" + name) != hash.get<std::string>())
            return name + " does not match its checksum";
    }
    return "";
}

std::vector<std::string> checkpoint_names(const std::string& ckpt) {
    std::vector<std::string> names;
    if (is_directory(ckpt))
        for (const std::string& name : list_directory(ckpt))
            if (name.rfind("step_", 0) == 0) names.push_back(name);
    return names; // ascending: the numbers have leading zeros
}

bool is_stage_end(const std::string& folder) {
    const std::string path = folder + "/state.json";
    if (!path_exists(path)) return false;
    const Json state = Json::parse(read_file(path), nullptr, false);
    return state.is_object() && state.value("stage_end", false);
}

void remove_old(const std::string& ckpt, int keep) {
    std::vector<std::string> names = checkpoint_names(ckpt);
    int kept = 0;
    for (size_t i = names.size(); i-- > 0;) {
        if (is_stage_end(ckpt + "/" + names[i])) continue;
        if (++kept > keep) remove_all(ckpt + "/" + names[i]);
    }
}

} // namespace

void save_checkpoint(const std::string& run, int64_t step, const Json& state,
                     const CheckpointParts& parts, int keep) {
    const std::string ckpt = run + "/ckpt", folder = ckpt + "/" + step_name(step);
    const std::string temporary = ckpt + "/tmp_" + step_name(step);
    remove_all(temporary);
    make_directories(temporary);
    Json whole = state, sums;
    sums["model.safetensors"] =
        hash_text(save_weights(parts.model, temporary, parts.tokenizer.end_of_text()));
    sums[kOptimizerFile] = hash_text(save_optimizer(temporary + "/" + kOptimizerFile, parts));
    parts.tokenizer.save(temporary + "/tokenizer.json");
    for (const char* name : {"config.json", "tokenizer.json"})
        sums[name] = hash_of_file(temporary + "/" + name);
    whole["optimizer_step"] = parts.optimizer.step();
    whole["checksums"] = sums;
    write_file_atomic(temporary + "/state.json", whole.dump(1) + "\n");
    fsync_directory(temporary);
    remove_all(folder); // a damaged one of the same step, passed over on load
    if (std::rename(temporary.c_str(), folder.c_str()) != 0)
        fatal("cannot rename " + temporary + " to " + folder, "is the disk full or read-only?");
    fsync_directory(ckpt);
    remove_old(ckpt, keep);
}

std::string newest_checkpoint(const std::string& run, std::vector<std::string>* warnings,
                              Json* state) {
    const std::string ckpt = run + "/ckpt";
    std::vector<std::string> names = checkpoint_names(ckpt);
    for (size_t i = names.size(); i-- > 0;) {
        const std::string folder = ckpt + "/" + names[i];
        Json found;
        std::string fault;
        try {
            fault = inspect(folder, &found);
        } catch (const UserError& error) {
            fault = error.what();
        }
        if (fault.empty()) {
            if (state) *state = std::move(found);
            return folder;
        }
        warnings->push_back(folder + " " + fault + ": passed over");
    }
    return "";
}

Json load_checkpoint(const std::string& run, const CheckpointParts& parts,
                     std::vector<std::string>* warnings) {
    Json state;
    const std::string folder = newest_checkpoint(run, warnings, &state);
    if (folder.empty()) return nullptr;
    parts.model.set_rope_base(read_config(folder).rope_base);
    load_weights(parts.model, folder);
    load_optimizer(folder + "/" + kOptimizerFile, parts);
    parts.optimizer.set_step(state["optimizer_step"].get<int64_t>());
    return state;
}

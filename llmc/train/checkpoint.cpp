// Contract: checkpoint.h.
#include "llmc/train/checkpoint.h"

#include "llmc/core/fault.h"
#include "llmc/core/safetensors.h"
#include "llmc/device/memory.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <sys/stat.h>

namespace {

std::string step_name(int64_t step) { return format("step_%08lld", (long long)step); }

std::string optimizer_file(int rank) { return format("optimizer.rank%d.safetensors", rank); }

// The part of a tensor inside a range of the flat weights.
struct Piece {
    const Param* param;
    Comm::Range range;
};

std::vector<Piece> pieces(const ParamTable& table, const Comm::Range& range) {
    std::vector<Piece> found;
    for (const Param& p : table.params) {
        const Comm::Range piece{std::max(range.begin, p.offset),
                                std::min(range.end, p.offset + p.size)};
        if (piece.begin < piece.end) found.push_back({&p, piece});
    }
    return found;
}

// Values of the flat weights' elements `range`, stored under `prefix` and the tensors' names.
struct StoredSet {
    const char* prefix;
    View values;
    Comm::Range range;
};

std::vector<StoredSet> moment_sets(const Optimizer& optimizer) { // of this rank
    return {{"exp_avg.", optimizer.first_moment(), optimizer.own()},
            {"exp_avg_sq.", optimizer.second_moment(), optimizer.own()}};
}

// In double also the weights, in the root's file: model.safetensors holds them as F32.
std::optional<StoredSet> weight_set(const Model& model) {
    const View weights = model.weights.flat();
    if (weights.dtype != Dtype::f64) return std::nullopt;
    return StoredSet{"weight.", weights, {0, weights.size()}};
}

// A whole tensor has its own shape, a part of one is a vector.
std::vector<int64_t> stored_shape(const Piece& piece) {
    const int64_t count = piece.range.end - piece.range.begin;
    return count == piece.param->size ? piece.param->shape : std::vector<int64_t>{count};
}

View piece_of(const StoredSet& set, const Comm::Range& range) {
    return set.values.slice_rows(range.begin - set.range.begin, range.end - range.begin);
}

uint64_t save_optimizer(const std::string& path, const CheckpointParts& parts) {
    std::vector<StoredSet> sets = moment_sets(parts.optimizer);
    if (const auto weights = weight_set(parts.model); weights && parts.comm.root())
        sets.push_back(*weights);
    std::vector<SafetensorsWriter::Spec> specs;
    for (const StoredSet& set : sets)
        for (const Piece& piece : pieces(parts.model.table, set.range))
            specs.push_back(
                {set.prefix + piece.param->name, set.values.dtype, stored_shape(piece)});
    SafetensorsWriter writer(path, specs);
    for (const StoredSet& set : sets)
        for (const Piece& piece : pieces(parts.model.table, set.range)) {
            const HostRead values(parts.model.ctx(), piece_of(set, piece.range));
            writer.append(values.bytes(), values.view().bytes());
        }
    return writer.finish();
}

// Reads what of `set` is in the file of one rank, which holds the elements `stored`.
void load_set(const SafetensorsFile& file, const Model& model, const StoredSet& set,
              const Comm::Range& stored) {
    for (const Piece& piece : pieces(model.table, stored)) {
        const TensorEntry& entry = file.at(set.prefix + piece.param->name);
        if (entry.shape != stored_shape(piece) || entry.dtype != set.values.dtype)
            fatal(file.path() + ": " + entry.name + " has another shape or dtype than the model",
                  "the checkpoint was made with another model or -device");
        const Comm::Range wanted{std::max(piece.range.begin, set.range.begin),
                                 std::min(piece.range.end, set.range.end)};
        if (wanted.begin >= wanted.end) continue;
        const size_t skipped = size_t(wanted.begin - piece.range.begin) * dtype_bytes(entry.dtype);
        const HostWrite out(model.ctx(), piece_of(set, wanted));
        convert_values(file.data(entry) + skipped, entry.dtype, out.bytes(), out.view().dtype,
                       out.view().size());
    }
}

// The moments of this rank's part, from the files of however many ranks saved them.
void load_optimizer(const std::string& folder, int saved_ranks, const CheckpointParts& parts) {
    const ParamTable& table = parts.model.table;
    for (int r = 0; r < saved_ranks; r++) {
        SafetensorsFile file(folder + "/" + optimizer_file(r));
        for (const StoredSet& set : moment_sets(parts.optimizer))
            load_set(file, parts.model, set, Comm::shard(table.trained_size, r, saved_ranks));
        if (const auto weights = weight_set(parts.model); weights && r == 0)
            load_set(file, parts.model, *weights, weights->range);
    }
}

std::string hash_of_file(const std::string& path) {
    MappedFile file(path);
    return hash_text(hash64(file.data(), file.size()));
}

// Checksums by file, of a folder's state.json; empty where it has none.
std::map<std::string, std::string> read_sums(const std::string& folder) {
    const std::string path = folder + "/state.json";
    std::map<std::string, std::string> sums;
    const Json state = json_parse(read_file(path), path);
    if (!state.is_object() || !state.contains("checksums") || !state["checksums"].is_object())
        return sums;
    for (const auto& [name, hash] : state["checksums"].items())
        sums[name] = hash.is_string() ? hash.get<std::string>() : hash.dump();
    return sums;
}

// "" or what is wrong with the folder.
std::string inspect(const std::string& folder) {
    if (!path_exists(folder + "/state.json")) return "has no state.json";
    std::map<std::string, std::string> sums;
    try {
        sums = read_sums(folder);
    } catch (const UserError& error) {
        return error.what();
    }
    if (sums.empty()) return "state.json has no checksums";
    for (const auto& [name, hash] : sums) {
        if (!path_exists(folder + "/" + name)) return "has no " + name;
        if (hash_of_file(folder + "/" + name) != hash) return name + " does not match its checksum";
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

void check_sums(const std::string& folder) {
    if (!path_exists(folder + "/state.json")) return;
    for (const auto& [name, hash] : read_sums(folder)) {
        const std::string path = folder + "/" + name;
        if (name.rfind("optimizer.", 0) == 0 || !path_exists(path)) continue;
        if (const std::string found = hash_of_file(path); found != hash)
            fatal(path + ": its checksum is " + found + ", state.json beside it says " + hash,
                  "it was damaged or changed; take another checkpoint, or remove state.json to "
                  "use this one as it is");
    }
}

void save_checkpoint(const std::string& run, int64_t step, const Json& state,
                     const CheckpointParts& parts, int keep) {
    Comm& comm = parts.comm;
    const std::string ckpt = run + "/ckpt", folder = ckpt + "/" + step_name(step);
    const std::string temporary = ckpt + "/tmp_" + step_name(step);
    if (comm.root()) {
        remove_all(temporary);
        make_directories(temporary);
    }
    comm.barrier();
    const std::string own = temporary + "/" + optimizer_file(comm.rank());
    const std::vector<std::string> hashes = comm.gather(hash_text(save_optimizer(own, parts)));
    fault_point("checkpoint.moments");
    if (comm.root()) {
        Json whole = state, sums;
        const int end_of_text = parts.tokenizer.end_of_text();
        std::map<std::string, uint64_t> files =
            save_weights(parts.model, temporary, end_of_text, {Dtype::f32, 0});
        fault_point("checkpoint.weights");
        files.merge(parts.tokenizer.save(temporary));
        for (const auto& [name, hash] : files) sums[name] = hash_text(hash);
        for (int r = 0; r < comm.size(); r++) sums[optimizer_file(r)] = hashes[r];
        whole["optimizer_step"] = parts.optimizer.step();
        whole["ranks"] = comm.size();
        whole["checksums"] = sums;
        write_file_atomic(temporary + "/state.json", whole.dump(1) + "\n");
        fsync_directory(temporary);
        fault_point("checkpoint.whole");
        remove_all(folder); // a damaged one of the same step, passed over on load
        if (std::rename(temporary.c_str(), folder.c_str()) != 0)
            fatal("cannot rename " + temporary + " to " + folder, "is the disk full or read-only?");
        fsync_directory(ckpt);
        fault_point("checkpoint.renamed");
        remove_old(ckpt, keep);
    }
    comm.barrier();
}

std::string newest_checkpoint(const std::string& run, std::vector<std::string>* warnings) {
    const std::string ckpt = run + "/ckpt";
    std::vector<std::string> names = checkpoint_names(ckpt);
    for (size_t i = names.size(); i-- > 0;) {
        const std::string folder = ckpt + "/" + names[i];
        std::string fault;
        try {
            fault = inspect(folder);
        } catch (const UserError& error) {
            fault = error.what();
        }
        if (fault.empty()) return folder;
        warnings->push_back(folder + " " + fault + ": passed over");
    }
    return "";
}

Json load_checkpoint(const std::string& run, const CheckpointParts& parts,
                     std::vector<std::string>* warnings) {
    Comm& comm = parts.comm;
    const std::string folder =
        comm.broadcast(comm.root() ? newest_checkpoint(run, warnings) : std::string());
    if (folder.empty()) return nullptr;
    const std::string path = folder + "/state.json", tokenizer = folder + "/tokenizer.json";
    const Json state = json_parse(read_file(path), path);
    if (read_file(tokenizer) != parts.tokenizer.json())
        fatal(tokenizer + ": the checkpoint was made with another tokenizer than this run's",
              "give -tokenizer the file the run began with, or give the new run its own -name");
    parts.model.set_rope_base(read_config(folder).rope_base);
    load_weights(parts.model, folder);
    load_optimizer(folder, state.value("ranks", 1), parts);
    parts.model.weights_changed();
    parts.optimizer.set_step(state["optimizer_step"].get<int64_t>());
    return state;
}

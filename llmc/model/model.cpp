// Contract: model.h.
#include "llmc/model/model.h"

#include "llmc/core/file.h"
#include "llmc/device/memory.h"
#include "llmc/device/parallel.h"
#include "llmc/ops/rope.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <optional>

Model::Model(Ctx& ctx, const ModelConfig& c, Masters masters)
    : config(c), table(c),
      weights(ctx.arena, Segment::parameters, c, table, Layout::whole,
              masters == Masters::kept ? ctx.dtype() : ctx.storage(), "weights"),
      ctx_(ctx),
      rope_(ctx.arena, Segment::parameters, ctx.dtype(), "rope", c.max_positions, c.head_dim) {
    rope_table_fill(HostWrite(ctx, rope_.view()).view(), c.rope_base);
    if (ctx.storage() != Dtype::bf16) return;
    if (masters == Masters::none) {
        weights.widen_routers(ctx.arena, Segment::parameters);
        return;
    }
    copy_ = std::make_unique<ParamSet>(ctx.arena, Segment::parameters, c, table, Layout::whole,
                                       Dtype::bf16, "weights in bf16");
    copy_->share_routers(weights);
}

size_t Model::bytes() const { return weights.bytes() + (copy_ ? copy_->bytes() : 0); }

void Model::weights_changed() {
    version_++;
    if (copy_) round_tensor(ctx_, copy_->trained(), weights.trained());
}

void Model::set_rope_base(double base) {
    config.rope_base = base;
    rope_table_fill(HostWrite(ctx_, rope_.view()).view(), base);
}

// ------------------------------------------------------------------------------------------------
// Hugging Face directories

namespace {

// Some values of a file and where they go.
struct Part {
    const MappedFile* file;
    size_t offset;
    Dtype dtype, own;
    char* to;
    int64_t count;

    size_t bytes() const { return size_t(count) * dtype_bytes(dtype); }
    void load(Ctx& ctx, std::vector<char>& room) const {
        const HostWrite values(ctx, make_view(to, own, "weights", count));
        if (dtype == own) return file->read(values.bytes(), offset, bytes());
        room.resize(bytes());
        file->read(room.data(), offset, bytes());
        convert_values(room.data(), dtype, values.bytes(), own, count);
    }
};

// Small enough that threads end together, whatever the tensors' sizes, and large enough that the
// system reads them in one go.
std::vector<Part> cut_parts(const Model& model, const WeightFiles& files) {
    constexpr int64_t kPart = 1 << 21;
    std::vector<Part> parts;
    for (const Param& param : model.table.params) {
        Part part{};
        part.file = &files.place(param, &part.dtype, &part.offset);
        const View to = model.weights.tensor(param);
        part.own = to.dtype;
        part.to = static_cast<char*>(to.data);
        for (int64_t left = param.size; left > 0; left -= part.count) {
            part.count = std::min(left, kPart);
            parts.push_back(part);
            part.offset += part.bytes();
            part.to += part.count * int64_t(dtype_bytes(part.own));
        }
    }
    return parts;
}

} // namespace

// The values are read, not mapped: no page of a file counts as the process's own then.
void load_weights(Model& model, const std::string& directory) {
    const WeightFiles files(directory);
    files.check(model.config, model.table);
    const std::vector<Part> parts = cut_parts(model, files);
    Ctx& ctx = model.ctx();
    ctx.wait();
    const size_t threads = size_t(omp_get_max_threads());
    std::vector<std::vector<char>> room(threads); // of each
    std::vector<std::exception_ptr> faults(parts.size());
    auto load = [&](int64_t i, int thread) {
        try {
            parts[size_t(i)].load(ctx, room[size_t(thread)]);
        } catch (...) {
            faults[size_t(i)] = std::current_exception();
        }
    };
    if (ctx.memory) // copies go one after the other
        for (size_t i = 0; i < parts.size(); i++) load(int64_t(i), 0);
    else parallel_for_dynamic(int64_t(parts.size()), load);
    for (const std::exception_ptr& fault : faults)
        if (fault) std::rethrow_exception(fault);
    model.weights_changed();
}

std::map<std::string, uint64_t> save_weights(const Model& model, const std::string& directory,
                                             int end_of_text, const WeightFormat& format) {
    std::optional<HostRead> values; // of the tensor being written
    return write_model_files(directory, model.config, model.table, end_of_text, format,
                             [&](const Param& param, Dtype* dtype) -> const void* {
                                 values.emplace(model.ctx(), model.weights.tensor(param));
                                 *dtype = values->view().dtype;
                                 return values->view().data;
                             });
}

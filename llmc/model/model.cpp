// Contract: model.h.
#include "llmc/model/model.h"

#include "llmc/core/file.h"
#include "llmc/device/memory.h"
#include "llmc/device/parallel.h"
#include "llmc/ops/rope.h"

#include <algorithm>
#include <memory>
#include <optional>

Model::Model(Ctx& ctx, const ModelConfig& c)
    : config(c), table(c),
      weights(ctx.arena, Segment::parameters, c, table, Layout::whole, ctx.dtype(), "weights"),
      ctx_(ctx),
      rope_(ctx.arena, Segment::parameters, ctx.dtype(), "rope", c.max_positions, c.head_dim) {
    rope_table_fill(HostWrite(ctx, rope_.view()).view(), c.rope_base);
    if (ctx.storage() != Dtype::bf16) return;
    copy_ = std::make_unique<ParamSet>(ctx.arena, Segment::parameters, c, table, Layout::whole,
                                       Dtype::bf16, "weights in bf16");
    copy_->share_routers(weights);
}

size_t Model::bytes() const {
    return weights.flat().bytes() + (copy_ ? copy_->trained().bytes() : 0);
}

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

void load_weights(Model& model, const std::string& directory) {
    const WeightFiles files(directory);
    files.check(model.config, model.table);
    files.read_ahead();
    struct Part { // small enough that threads end together, whatever the tensors' sizes
        const char* from;
        Dtype dtype;
        char* to;
        int64_t count;
    };
    constexpr int64_t kPart = 1 << 20;
    std::vector<Part> parts;
    const Dtype own = model.weights.flat().dtype;
    for (const Param& param : model.table.params) {
        Part part{};
        part.from = static_cast<const char*>(files.values(param, &part.dtype));
        part.to = static_cast<char*>(model.weights.tensor(param).data);
        for (int64_t left = param.size; left > 0; left -= part.count) {
            part.count = std::min(left, kPart);
            parts.push_back(part);
            part.from += part.count * int64_t(dtype_bytes(part.dtype));
            part.to += part.count * int64_t(dtype_bytes(own));
        }
    }
    Ctx& ctx = model.ctx();
    ctx.wait();
    auto fill = [&](const Part& part) {
        populate(part.from, size_t(part.count) * dtype_bytes(part.dtype));
        const HostWrite to(ctx, make_view(part.to, own, "weights", part.count));
        convert_values(part.from, part.dtype, to.view().data, own, part.count);
    };
    if (ctx.memory) // copies go one after the other
        for (const Part& part : parts) fill(part);
    else
        parallel_for_dynamic(int64_t(parts.size()),
                             [&](int64_t i, int) { fill(parts[size_t(i)]); });
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

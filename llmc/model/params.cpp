// Contract and layout: params.h.
#include "llmc/model/params.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/device/memory.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kAlign = 16; // elements: a tensor starts on a full vector

int64_t product(const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    return n;
}

void list_block(std::vector<Param>& out, const ModelConfig& c, int l) {
    const int64_t C = c.channels, F = c.moe() ? c.expert_ffn : c.ffn;
    const std::string p = format("model.layers.%d.", l);
    auto add = [&](const std::string& name, std::vector<int64_t> shape, ParamKind kind) {
        out.push_back({p + name, shape, kind, l, -1, product(shape)});
    };
    add("input_layernorm.weight", {C}, ParamKind::norm);
    add("self_attn.q_proj.weight", {c.q_width(), C}, ParamKind::matrix);
    add("self_attn.k_proj.weight", {c.kv_width(), C}, ParamKind::matrix);
    add("self_attn.v_proj.weight", {c.kv_width(), C}, ParamKind::matrix);
    add("self_attn.q_norm.weight", {c.head_dim}, ParamKind::norm);
    add("self_attn.k_norm.weight", {c.head_dim}, ParamKind::norm);
    add("self_attn.o_proj.weight", {C, c.q_width()}, ParamKind::residual);
    add("post_attention_layernorm.weight", {C}, ParamKind::norm);
    if (!c.moe()) {
        add("mlp.gate_proj.weight", {F, C}, ParamKind::matrix);
        add("mlp.up_proj.weight", {F, C}, ParamKind::matrix);
        add("mlp.down_proj.weight", {C, F}, ParamKind::residual);
        return;
    }
    add("mlp.gate.weight", {c.experts, C}, ParamKind::matrix);
    add("mlp.gate.e_score_correction_bias", {c.experts}, ParamKind::router_bias);
    for (int e = 0; e < c.experts; e++) {
        const std::string q = format("mlp.experts.%d.", e);
        add(q + "gate_proj.weight", {F, C}, ParamKind::matrix);
        add(q + "up_proj.weight", {F, C}, ParamKind::matrix);
    }
    for (int e = 0; e < c.experts; e++)
        add(format("mlp.experts.%d.down_proj.weight", e), {C, F}, ParamKind::residual);
}

// Gives the tensors of one class their places, in table order. Only the ends of fused groups are
// aligned: inside a group tensors follow each other without a gap.
int64_t place(std::vector<Param>& params, int64_t offset, const ModelConfig& c,
              bool (*belongs)(ParamKind)) {
    for (Param& p : params) {
        if (!belongs(p.kind)) continue;
        const bool inside_group = p.name.ends_with("k_proj.weight") ||
                                  p.name.ends_with("v_proj.weight") ||
                                  p.name.ends_with("up_proj.weight") ||
                                  (p.name.find(".experts.") != std::string::npos &&
                                   p.name.find(".experts.0.") == std::string::npos);
        if (!inside_group) offset = round_up(offset, kAlign);
        p.offset = offset;
        offset += p.size;
        if (p.layer < 0 && p.shape.size() == 2) // embedding, head: padded rows
            offset += (c.padded_vocab() - p.shape[0]) * p.shape[1];
    }
    return round_up(offset, kAlign);
}

} // namespace

bool Param::routes() const {
    return kind == ParamKind::router_bias || name.ends_with(".mlp.gate.weight");
}

ParamTable::ParamTable(const ModelConfig& c) : layers(c.layers) {
    auto top = [&](const char* name, std::vector<int64_t> shape, ParamKind kind) {
        params.push_back({name, shape, kind, -1, -1, product(shape)});
    };
    top("model.embed_tokens.weight", {c.vocab, c.channels}, ParamKind::matrix);
    for (int l = 0; l < c.layers; l++) list_block(params, c, l);
    top("model.norm.weight", {c.channels}, ParamKind::norm);
    if (!c.tied) top("lm_head.weight", {c.vocab, c.channels}, ParamKind::matrix);
    decayed_size = place(params, 0, c, [](ParamKind k) {
        return k == ParamKind::matrix || k == ParamKind::residual;
    });
    trained_size = place(params, decayed_size, c, [](ParamKind k) { return k == ParamKind::norm; });
    total_size =
        place(params, trained_size, c, [](ParamKind k) { return k == ParamKind::router_bias; });
    for (size_t i = 0; i < params.size(); i++) index_.emplace(params[i].name, i);
}

const Param* ParamTable::find(const std::string& name) const {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : &params[it->second];
}

Span ParamTable::embed_span() const { return {0, block_span(0).begin}; }

Span ParamTable::head_span() const { return {block_span(layers - 1).end, decayed_size}; }

Span ParamTable::norm_span() const { return {decayed_size, trained_size}; }

Span ParamTable::block_span(int l) const {
    auto first = [&](int layer) {
        return find(format("model.layers.%d.self_attn.q_proj.weight", layer))->offset;
    };
    const Param* head = find("lm_head.weight");
    if (l + 1 < layers) return {first(l), first(l + 1)};
    return {first(l), head ? head->offset : decayed_size};
}

ParamSet::ParamSet(Arena& arena, Segment segment, const ModelConfig& c, const ParamTable& table,
                   Layout layout, Dtype dtype, const char* name)
    : trained_size_(table.trained_size) {
    int64_t size = table.total_size;
    if (layout == Layout::whole) places_ = {{{0, size}, 0}};
    else {
        const Span embed = table.embed_span(), head = table.head_span();
        const int64_t block_at = std::max(embed.size(), head.size());
        const int64_t norms_at = block_at + table.block_span(0).size();
        places_ = {{embed, 0}, {head, 0}, {{table.decayed_size, size}, norms_at}};
        for (int l = 0; l < c.layers; l++) {
            places_.push_back({table.block_span(l), block_at});
            require(table.block_span(l).size() == norms_at - block_at, "params: block %d", l);
        }
        size = norms_at + table.total_size - table.decayed_size;
    }
    memory_ = Buffer(arena, segment, dtype, name, size);
    auto at = [&](const std::string& param_name, std::vector<int64_t> shape) {
        const Param* p = table.find(param_name);
        require(p, "params: no tensor %s", param_name.c_str());
        void* data = data_at(p->offset);
        if (shape.size() == 1) return make_view(data, dtype, p->name.c_str(), shape[0]);
        if (shape.size() == 2) return make_view(data, dtype, p->name.c_str(), shape[0], shape[1]);
        return make_view(data, dtype, p->name.c_str(), shape[0], shape[1], shape[2]);
    };
    const int64_t C = c.channels, E = c.experts, F = c.moe() ? c.expert_ffn : c.ffn;
    embed_ = at("model.embed_tokens.weight", {c.padded_vocab(), C});
    head_ = c.tied ? embed_ : at("lm_head.weight", {c.padded_vocab(), C});
    final_norm_ = at("model.norm.weight", {C});
    for (int l = 0; l < c.layers; l++) {
        const std::string p = format("model.layers.%d.", l);
        BlockParams b;
        b.attention_norm = at(p + "input_layernorm.weight", {C});
        b.qkv = at(p + "self_attn.q_proj.weight", {c.qkv_width(), C});
        b.q_norm = at(p + "self_attn.q_norm.weight", {c.head_dim});
        b.k_norm = at(p + "self_attn.k_norm.weight", {c.head_dim});
        b.o = at(p + "self_attn.o_proj.weight", {C, c.q_width()});
        b.ffn_norm = at(p + "post_attention_layernorm.weight", {C});
        if (c.moe()) {
            b.router = at(p + "mlp.gate.weight", {E, C});
            b.router_bias = at(p + "mlp.gate.e_score_correction_bias", {E});
            b.experts_gate_up = at(p + "mlp.experts.0.gate_proj.weight", {E, 2 * F, C});
            b.experts_down = at(p + "mlp.experts.0.down_proj.weight", {E, C, F});
        } else {
            b.gate_up = at(p + "mlp.gate_proj.weight", {2 * F, C});
            b.down = at(p + "mlp.down_proj.weight", {C, F});
        }
        blocks_.push_back(b);
    }
}

void ParamSet::share_routers(const ParamSet& other) {
    for (size_t l = 0; l < blocks_.size(); l++) {
        blocks_[l].router = other.blocks_[l].router;
        blocks_[l].router_bias = other.blocks_[l].router_bias;
    }
}

void ParamSet::widen_routers(Arena& arena, Segment segment) {
    if (blocks_.empty() || blocks_[0].router.empty()) return;
    const int64_t weights = blocks_[0].router.size(), biases = blocks_[0].router_bias.size();
    const int64_t room = round_up(weights + biases, kAlign);
    routers_ = Buffer(arena, segment, Dtype::f32, "routers", int64_t(blocks_.size()) * room);
    float* at = routers_.as<float>();
    for (BlockParams& b : blocks_) {
        b.router = make_view(at, Dtype::f32, b.router.name, b.router.shape[0], b.router.shape[1]);
        b.router_bias = make_view(at + weights, Dtype::f32, b.router_bias.name, biases);
        at += room;
    }
}

char* ParamSet::data_at(int64_t offset) const {
    for (const Place& place : places_)
        if (offset >= place.span.begin && offset < place.span.end)
            return memory_.bytes() + (place.at + offset - place.span.begin) *
                                         int64_t(dtype_bytes(memory_.view().dtype));
    require(false, "params: nothing at %ld", long(offset));
    return nullptr;
}

View ParamSet::flat() const {
    require(places_.size() == 1, "%s: not in one piece", memory_.view().name);
    return memory_.view();
}

View ParamSet::trained() const { return flat().slice_rows(0, trained_size_); }

View ParamSet::span(const Span& s) const {
    return make_view(data_at(s.begin), memory_.view().dtype, memory_.view().name, s.size());
}

View ParamSet::tensor(const Param& p) const {
    if (p.kind == ParamKind::router_bias) return blocks_[size_t(p.layer)].router_bias;
    if (p.routes()) return blocks_[size_t(p.layer)].router;
    const Dtype dtype = memory_.view().dtype;
    void* data = data_at(p.offset);
    if (p.shape.size() == 1) return make_view(data, dtype, p.name.c_str(), p.shape[0]);
    return make_view(data, dtype, p.name.c_str(), p.shape[0], p.shape[1]);
}

void init_params(Ctx& ctx, ParamSet& params, const ParamTable& table, const ModelConfig& config,
                 uint64_t seed, double std) {
    for (const Param& p : table.params) {
        const HostWrite values(ctx, params.tensor(p));
        const double scale =
            p.kind == ParamKind::residual ? std / std::sqrt(2.0 * config.layers) : std;
        Rng rng(seed, hash64(p.name.data(), p.name.size()));
        for (int64_t i = 0; i < p.size; i++) {
            double value = p.kind == ParamKind::norm          ? 1.0
                           : p.kind == ParamKind::router_bias ? 0.0
                                                              : scale * rng.normal();
            write_value(values.view(), i, double(float(value))); // the backends start equal
        }
    }
}

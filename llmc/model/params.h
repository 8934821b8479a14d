// The one parameter table, and the flat memory behind it.
#pragma once
#include "llmc/device/buffer.h"
#include "llmc/device/context.h"
#include "llmc/model/config.h"

#include <string>
#include <unordered_map>
#include <vector>

enum class ParamKind {
    matrix,      // decayed, N(0, std) at the start
    residual,    // decayed, N(0, std / sqrt(2 L)): the two projections back into the stream
    norm,        // not decayed, 1
    router_bias, // not trained by gradient, 0; moved by moe_bias_update
};

// One tensor under its Hugging Face name.
struct Param {
    std::string name;
    std::vector<int64_t> shape;
    ParamKind kind;
    int layer;      // -1 = none
    int64_t offset; // elements into the flat buffer
    int64_t size;   // elements, padding excluded

    // A router's weight or bias: never rounded to bf16, as a selection hangs on its last bits.
    bool routes() const;
};

struct Span { // elements of the flat order
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

// The flat order puts what one op reads together, so that it is read without a copy:
//
//   | embed (Vp, C) | layer: q k v (H+2HKV)D x C | o | gate up (2F, C) | down | ... | head |
//   | norms of all layers |  router biases of all layers |
//     ^ decayed              ^ not decayed            ^ not trained
//
// A MoE layer has, in place of gate up down: router (E, C), experts' gate up (E, 2F, C), experts'
// down (E, C, F). Rows V..Vp-1 of embedding and head are zero and stay so.
struct ParamTable {
    explicit ParamTable(const ModelConfig& config);
    const Param* find(const std::string& name) const;
    Span embed_span() const, head_span() const; // with their padding; empty where the head is tied
    Span block_span(int layer) const;           // its matrices
    Span norm_span() const;                     // those of all blocks, and the last
    std::vector<Param> params;                  // in the order of a Hugging Face checkpoint
    int64_t decayed_size;                       // elements [0, decayed_size) are weight-decayed
    int64_t trained_size;                       // elements [0, trained_size) have a gradient
    int64_t total_size;
    int layers;

  private:
    std::unordered_map<std::string, size_t> index_;
};

// The tensors one block's ops read (values) or accumulate into (gradients).
struct BlockParams {
    View attention_norm, qkv, q_norm, k_norm, o, ffn_norm;
    View gate_up, down;                                      // dense
    View router, router_bias, experts_gate_up, experts_down; // MoE
};

// whole: every tensor has its own place, in the flat order. folded: one place for the matrices of
// all blocks, which have the same layout, and one for embedding and head: for what is used block by
// block and given away in between.
enum class Layout { whole, folded };

// A set of values laid out by the table: the weights, or their gradients, or Adam's moments.
class ParamSet {
  public:
    ParamSet(Arena& arena, Segment segment, const ModelConfig& config, const ParamTable& table,
             Layout layout, Dtype dtype, const char* name);
    View flat() const;                     // (total_size), whole only
    View trained() const;                  // (trained_size), whole only
    View span(const Span& span) const;     // one of the table's
    View tensor(const Param& param) const; // in its own shape
    View embed() const { return embed_; }  // (Vp, C)
    View head() const { return head_; }    // (Vp, C), the embedding when tied
    View final_norm() const { return final_norm_; }
    const BlockParams& block(int layer) const { return blocks_[layer]; }
    size_t bytes() const {
        return memory_.view().bytes() + (routers_.view().empty() ? 0 : routers_.view().bytes());
    }
    // Reads other's router weights and biases from now on.
    void share_routers(const ParamSet& other);
    // Router weights and biases get memory of their own, fp32.
    void widen_routers(Arena& arena, Segment segment);

  private:
    struct Place {
        Span span;
        int64_t at; // elements into memory_
    };
    char* data_at(int64_t offset) const; // offset: of the flat order

    std::vector<Place> places_;
    Buffer memory_, routers_;
    int64_t trained_size_;
    View embed_, head_, final_norm_;
    std::vector<BlockParams> blocks_;
};

// Start values: a function of (seed, name of the tensor, index), whatever the order or the thread
// count.
void init_params(Ctx& ctx, ParamSet& params, const ParamTable& table, const ModelConfig& config,
                 uint64_t seed, double std);

// A model: its shape, its weights under their names, its rotation table. What runs over it is
// train_pass.h (forward and backward of packed rows) and decode_pass.h (rows over a KV cache).
#pragma once
#include "llmc/model/weight_files.h"

#include <memory>

// kept: weights in the dtype of sums, which an optimizer moves, and where X is bf16 a rounded copy
// of them for the passes. none: weights are read only, and where X is bf16 that is all they are, a
// third of the memory; routers stay fp32.
enum class Masters { kept, none };

struct Model {
    Model(Ctx& ctx, const ModelConfig& config, Masters masters);
    Model(Ctx& ctx, const ModelConfig& config) : Model(ctx, config, Masters::kept) {}
    Model(const Model&) = delete;

    void set_rope_base(double base);
    View rope() const { return rope_.view(); } // (max_positions, D)
    size_t bytes() const;
    Ctx& ctx() const { return ctx_; } // that its tensors belong to

    // What the passes read: `weights`, or where X is bf16 their rounded copy (routers excepted,
    // which stay fp32). Whoever changes `weights` calls weights_changed() afterwards.
    const ParamSet& pass_weights() const { return copy_ ? *copy_ : weights; }
    void weights_changed();
    uint64_t weights_version() const { return version_; } // calls of weights_changed()

    ModelConfig config;
    const ParamTable table;
    ParamSet weights; // what the optimizer moves and checkpoints hold: fp32, double for ref
                      // (without masters X)

  private:
    Ctx& ctx_;
    Buffer rope_;
    std::unique_ptr<ParamSet> copy_;
    uint64_t version_ = 0;
};

// Weights of a Hugging Face directory (weight_files.h), converted to the model's own dtype.
void load_weights(Model& model, const std::string& directory);
// Writes such a directory; see write_model_files.
std::map<std::string, uint64_t> save_weights(const Model& model, const std::string& directory,
                                             int end_of_text, const WeightFormat& format);

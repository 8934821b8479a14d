// Model shapes: presets, checks, parameter counts and the Hugging Face config.json.
#pragma once
#include "llmc/core/json.h"
#include "llmc/core/view.h"

#include <cstdint>
#include <string>
#include <vector>

// Dense = Qwen3 (arXiv 2505.09388): RMSNorm, GQA, per-head QK-norm, rotate-half RoPE, SwiGLU, no
// biases. MoE = the same with a sigmoid router, selection-only bias and dropless experts in every
// layer (Glm4MoeForCausalLM on disk).
struct ModelConfig {
    int layers = 0;            // L
    int channels = 0;          // C
    int ffn = 0;               // F of the dense block, unused in a MoE model
    int heads = 0;             // H
    int kv_heads = 0;          // HKV
    int head_dim = 0;          // D, free of channels / heads
    int vocab = 0;             // V
    int experts = 0;           // E, 0 = dense
    int experts_per_token = 0; // K
    int expert_ffn = 0;        // F of one expert
    bool tied = true;          // the head is the embedding
    int max_positions = 0;     // longest document
    double norm_eps = 1e-6;
    double rope_base = 1e4;
    double router_scale = 1.0; // factor on the normalised expert weights

    bool moe() const { return experts > 0; }
    int padded_vocab() const { return (vocab + 15) / 16 * 16; } // Vp
    int q_width() const { return heads * head_dim; }
    int kv_width() const { return kv_heads * head_dim; }
    int qkv_width() const { return q_width() + 2 * kv_width(); }
    bool operator==(const ModelConfig&) const = default;
};

// "tiny", "tiny-moe", "demo", "demo-moe", "1B", "4B", "5B-A0.3B", "10B-A0.5B"; fatal() lists them.
ModelConfig model_preset(const std::string& name);

// Stops with a message if a field is out of range or two fields contradict each other.
void check_config(const ModelConfig& config);

struct ParameterCounts {
    int64_t total;                // every weight, an untied head included; router biases are not
    int64_t non_embedding;        // without embedding and head
    int64_t active_non_embedding; // of those, what one token uses
};
ParameterCounts count_parameters(const ModelConfig& config);

// Floating-point operations of one token's products with weights in the forward; the backward has
// twice as many. Attention's own products, which depend on the length, are left out.
double forward_flops(const ModelConfig& config);

// config.json as transformers reads it (Qwen3ForCausalLM or Glm4MoeForCausalLM) and back; `path`
// names the file in messages. Both spellings of the rotation (rope_theta, rope_parameters) and of
// the weights' dtype (torch_dtype, dtype) are written, so that older and newer tools read it. A
// field this program cannot honour (attention bias, sliding window, softmax router, partial
// rotation, scaled RoPE, shared experts, ...) is refused by the name of its key.
Json config_to_json(const ModelConfig& config, int end_of_text, Dtype weights);
ModelConfig config_from_json(const Json& json, const std::string& path);

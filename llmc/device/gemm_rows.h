// Products with few rows over weights that were packed beforehand: decoding multiplies one or a few
// dozen rows by the same weights again and again, and would otherwise spend its time laying them
// out for every product. The results are gemm()'s bit for bit: which order of summation gives them
// is found out for each shape when it is packed, and a shape for which none does stays gemm()'s.
#pragma once
#include "llmc/device/buffer.h"
#include "llmc/device/context.h"

#include <unordered_map>
#include <vector>

class PackedWeights {
  public:
    // Makes room for weights (n, k), or experts' weights (E, n, k), f32 or bf16, of products
    // c = a weight^T. Their memory stays where it is as long as they are used here.
    void add(const View& weight);

    void pack(Ctx& ctx); // the present values of all

    // c (m, n) = a (m, k) weight^T with the bits of gemm(); false: that is left to gemm().
    bool multiply(Ctx& ctx, View c, const View& a, const View& weight) const;

    // grouped_linear_forward of ops/moe.h for f32, with its bits: one chain of multiply-adds.
    bool multiply_grouped(Ctx& ctx, View out, const View& inp, const View& slot_row,
                          const View& weight, const View& offsets) const;

    size_t bytes() const { return bytes_; }

  private:
    struct Matrix {
        View weight;
        int64_t experts, n, k, ld; // ld: between rows; an expert's follow those of the one before
        Buffer panels; // (experts * ceil(n / 32), k, 32); bf16: pairs along k, (.., k/2, 32, 2)
        int64_t sum;   // terms of k in one chain; 0 = not gemm()'s bits
    };
    const Matrix* find(const View& weight, Dtype a) const;

    std::vector<Matrix> matrices_;
    std::unordered_map<const void*, size_t> index_; // by the weights' address
    size_t bytes_ = 0;
};

// Linear layers and experts look here as long as it lives (ops/linear_cpu.cpp, ops/moe_cpu.cpp).
class UsePackedWeights {
  public:
    UsePackedWeights(Ctx& ctx, const PackedWeights& weights) : ctx_(ctx) {
        ctx.packed_weights = &weights;
    }
    ~UsePackedWeights() { ctx_.packed_weights = nullptr; }
    UsePackedWeights(const UsePackedWeights&) = delete;

  private:
    Ctx& ctx_;
};

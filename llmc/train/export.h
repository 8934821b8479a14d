// Checkpoints for other programs.
#pragma once
#include "llmc/data/tokenizer.h"
#include "llmc/model/weight_files.h"

// Writes the model and tokenizer of the Hugging Face directory `folder` (a training checkpoint is
// one) as the new directory `out`, one tensor in memory at a time. `out` is there whole or not at
// all; fatal() if it is there already. Returns the bytes of its weights.
uint64_t export_checkpoint(const std::string& folder, const Tokenizer& tokenizer,
                           const std::string& out, const WeightFormat& format);

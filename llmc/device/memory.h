// What model and train code do to whole tensors without an op. In order with the ops; the results
// are there after Ctx::wait().
#pragma once
#include "llmc/device/context.h"

void fill_zero(Ctx& ctx, View view); // contiguous
// Same dtype and size; the memories do not overlap.
void copy_tensor(Ctx& ctx, View to, const View& from);

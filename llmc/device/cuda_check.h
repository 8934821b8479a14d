// Errors of the CUDA runtime, for the files that call it.
#pragma once
#include "llmc/core/error.h"

#include <cuda_runtime_api.h>

inline void cuda_check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        fatal(format("CUDA: %s: %s", what, cudaGetErrorString(status)),
              "run with CUDA_LAUNCH_BLOCKING=1, or with -device simt, to see where");
}

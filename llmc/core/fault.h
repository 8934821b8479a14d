// Faults to order, for the tests of stopping and resuming: a process signals itself at a named
// point of its work, so that no test depends on how fast the machine is.
//
//   PRIOR_FAULT=POINT:N:SIGNAL ./train ...
//
// SIGNAL is KILL, TERM or STOP and comes the N-th time POINT is passed:
//
//   STAGE.step           a step of the stage is in metrics.jsonl
//   STAGE.trained        a micro-batch went forward and backward
//   sampled              the rollout engine drew a token of every sequence
//   checkpoint.moments   the files of the ranks are written, the others not
//   checkpoint.weights   model.safetensors is written
//   checkpoint.whole     state.json is written under the temporary name
//   checkpoint.renamed   the checkpoint is there, the old ones are too
#pragma once
#include <string>

void fault_point(const std::string& name);

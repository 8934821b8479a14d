// The key table of ./rollout, for all its commands.
#pragma once
#include "llmc/core/recipe.h"

KeyTable rollout_keys();

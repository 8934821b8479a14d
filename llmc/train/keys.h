// The key table of ./train: the one place that states what can be set.
#pragma once
#include "llmc/core/recipe.h"
#include "llmc/model/config.h"
#include "llmc/ops/loss.h"

KeyTable train_keys();

// The recipe compiled into the program (scripts/recipes/embedded.ini).
std::string embedded_recipe();

// Command line and recipe file, or the embedded recipe, in their order of precedence.
Recipe read_train_recipe(const std::vector<std::string>& arguments);

// The model a recipe describes: preset, then single keys.
ModelConfig recipe_model(const Recipe& recipe, int vocab);

// The shaped loss of a stage.
LossShape recipe_loss(const Recipe& recipe, const std::string& stage, int vocab);

// A stage is data, weights of rows and a schedule; the loop (run.cpp) is one for all three.
#pragma once
#include "llmc/core/recipe.h"
#include "llmc/data/stream.h"
#include "llmc/train/micro_batch.h"
#include "llmc/train/optimizer.h"

#include <memory>

struct StageBatch {
    std::vector<MicroBatch> micro; // this rank's share; the rest is of the whole batch
    int64_t tokens = 0;            // rows with a target
    int64_t rows = 0;              // trained on
    int64_t sampled = 0;           // tokens of rollouts
    double generate_s = 0, grade_s = 0;
    std::string warning, note;     // "" = none
    Json metrics = Json::object(); // the stage's own entries of the metrics line
};

class Stage {
  public:
    Stage(const Recipe& recipe, const Comm& comm, const std::string& name,
          const ModelConfig& config);
    virtual ~Stage() = default;

    // The batch of optimizer step `step` (0-based within the stage).
    virtual void next_batch(int64_t step, StageBatch& batch) = 0;
    // True where state() together with the weights repeats what follows.
    virtual bool can_checkpoint() const { return true; }
    virtual Json state() const = 0;
    virtual void restore(const Json& state) = 0;

    const std::string name;
    LossShape loss;
    int64_t steps = 0;
    double bias_rate, rope_base;
    int64_t bad_steps;
    OptimizerSettings optimizer(int64_t step) const; // with the scheduled learning rate

  protected:
    const Recipe& recipe_;
    const Comm& comm_;
};

// Rows of `context` tokens packed together: as many of `rows` as fit into pass_rows, at least one.
int64_t rows_at_a_time(const Recipe& recipe, int64_t context, int64_t rows);

// How a text stage's batch is shared out: in units of rows packed together, whole ones where every
// rank gets as many, else each among all ranks.
struct BatchUnits {
    int64_t batch, context; // rows, tokens of a row
    int64_t rows, count;    // of a unit, the last may have fewer; units
    int parts;              // of a unit: 1 or the ranks
    int64_t per_rank;       // micro-batches
    BatchUnits(const Recipe& recipe, const std::string& stage, int ranks);
    // Most tokens of a micro-batch.
    int64_t pass_rows() const { return part_rows(rows * context, parts, context); }
};

// Pre-training and mid-training: packed text, every target weighs 1 / (targets of the step). Every
// rank packs the whole batch, in units of pass_rows whatever the number of ranks, and keeps its
// share: what is learnt does not depend on the ranks.
class TextStage : public Stage {
  public:
    TextStage(const Recipe& recipe, const Comm& comm, const std::string& name,
              const ModelConfig& config, const Tokenizer& tokenizer, const std::string& run);
    void next_batch(int64_t step, StageBatch& batch) override;
    Json state() const override { return stream_.state(); }
    void restore(const Json& state) override { stream_.restore(state); }

  private:
    const std::string run_; // folder
    DataStream stream_;
    bool begun_ = false; // what is left out of the data is said once
    const BatchUnits units_;
};

// The stream options of a text stage or of validation.
StreamOptions stream_options(const Recipe& recipe, const std::string& stage, Split split);

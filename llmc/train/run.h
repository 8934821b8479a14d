// A run: one folder, one recipe, one model, one loop over its stages. Under mpirun all ranks make
// the same run together; the root alone writes to the folder and the terminal.
#pragma once
#include "llmc/train/checkpoint.h"
#include "llmc/train/micro_batch.h"
#include "llmc/train/plan.h"
#include "llmc/train/rl_stage.h"
#include "llmc/train/run_log.h"

#include <csignal>

class Run {
  public:
    Run(const Recipe& recipe, Comm& comm);
    ~Run();

    // Runs or resumes to the end, or to the first SIGINT, SIGTERM or SIGUSR1 (which mpirun passes
    // on), which save and return.
    // Returns the exit code, 0 in both cases.
    int train();
    const MemoryPlan& plan() const { return plan_; }
    const Arena& arena() const { return ctx_->arena; }

  private:
    // Where the run stands; with the weights and Adam's moments this is the checkpoint.
    struct Position {
        size_t stage = 0;
        int64_t step = 0, global_step = 0, tokens = 0, skipped = 0;
    };

    void open_folder();
    void check_recipe();
    void start_or_resume();
    void check_stages(const std::vector<std::string>& begun) const;
    void describe() const;
    std::unique_ptr<SampleSource> make_source();
    void say_memory();
    std::unique_ptr<Stage> make_stage(const std::string& name);
    bool run_stage(); // false: interrupted
    void train_step(Stage& stage);
    StatSums sum_gradients(const Stage& stage, const StageBatch& batch);
    void balance_experts(const Stage& stage, bool learnt, Json& line);
    bool saves_routing(const Stage& stage) const;
    void save(bool stage_end);
    // evaluation.cpp
    void check_data() const;
    std::unique_ptr<DataStream> validation_stream() const;
    void evaluate_stage(const std::string& name);
    void validate(Json& line);
    std::vector<std::string> answer_held_out(const std::string& stage, Json& line);
    void print_table() const;

    const Recipe recipe_;
    Comm& comm_;
    std::string folder_;
    int lock_ = -1;
    Tokenizer tokenizer_;
    std::vector<std::string> stage_names_;
    RunProblems problems_;
    std::unique_ptr<Ctx> ctx_;
    MemoryPlan plan_{};
    std::unique_ptr<Model> model_;
    std::unique_ptr<Optimizer> optimizer_;
    std::unique_ptr<TrainPass> pass_;
    std::unique_ptr<RunLog> log_;
    std::unique_ptr<Stage> stage_;
    std::unique_ptr<MicroBatchViews> views_; // of the pass
    Position position_;
    Json stage_state_;     // of the checkpoint, for the stage to restore
    double gemm_peak_ = 0; // flop/s, measured at the start
    int64_t bad_in_a_row_ = 0, steps_here_ = 0;
    int64_t last_saved_ = -1;
    std::string warned_; // the last step's
};

// The run folder's name: -name, or the recipe's with every flag that changes what is computed, so
// that the same command finds the same run and another one does not.
std::string run_name(const Recipe& recipe);

extern volatile std::sig_atomic_t stop_requested; // set by SIGINT, SIGTERM and SIGUSR1

// Who draws a run's samples: every rank with an engine of its own, on the weights it trains, or
// ranks of the same job that run ./rollout serve. The samples are the same.
#pragma once
#include "llmc/device/comm.h"
#include "llmc/rollout/engine.h"

class SampleSource {
  public:
    virtual ~SampleSource() = default;
    // Ranks that bring requests of their own, from rank 0 on.
    virtual int sharers() const = 0;
    // Samples the requests of this rank; as Engine::generate() with a listener that takes all.
    virtual void generate(const std::vector<Request>& requests, const SampleSettings& settings,
                          const EngineListener& listener) = 0;
    // The model has other weights than when it was last asked.
    virtual void weights_changed() = 0;
};

class OwnEngine : public SampleSource {
  public:
    OwnEngine(Ctx& ctx, const Comm& comm, const Model& model, const EngineSettings& settings)
        : ranks_(comm.size()), engine_(ctx, model, settings) {}
    int sharers() const override { return ranks_; }
    void generate(const std::vector<Request>& requests, const SampleSettings& settings,
                  const EngineListener& listener) override;
    void weights_changed() override {} // nothing is copied

  private:
    const int ranks_;
    Engine engine_;
};

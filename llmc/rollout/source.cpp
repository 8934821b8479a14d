// Contract: source.h.
#include "llmc/rollout/source.h"

void OwnEngine::generate(const std::vector<Request>& requests, const SampleSettings& settings,
                         const EngineListener& listener) {
    engine_.listen(listener);
    engine_.generate(requests, settings);
    engine_.listen({});
}

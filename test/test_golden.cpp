// The golden vectors of test/golden, as ./golden runs them.
#include "test/catch.h"
#include "test/golden_runner.h"

TEST_CASE("golden: every vector of test/golden is reproduced", "[golden][slow]") {
    for (const GoldenResult& result : run_golden("test/golden")) {
        INFO(result.name << ": " << result.error << ", tolerance " << result.tolerance);
        CHECK(result.ok);
    }
}

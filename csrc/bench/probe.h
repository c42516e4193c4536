// The loops of the bandwidth probe: this extension module compiles them, and the core's BandwidthProbe runs them.
#pragma once

#include "../cpu/loop.h"

namespace fo::bench {

// Tables indexed by rule.  The entries of `reduces` are null where a rule reduces nothing.
struct ProbeLoops {
    const cpu::RuleLoops* updates;
    const cpu::RuleLoops* reduces;
};

}  // namespace fo::bench

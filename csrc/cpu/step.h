// One step of a whole model on the CPU.
#pragma once

#include "../call.h"
#include "loop.h"

namespace fo::cpu {

// The arrays were checked; nothing here can fail but the allocation of a small table, before the first write.
void step(const Call& call, const Updates* updates);

}  // namespace fo::cpu

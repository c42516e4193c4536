// The options of a parameter group as the loops need them, except for what changes with the step.
#pragma once

#include "step.h"

#include <optional>
#include <string>
#include <vector>

namespace fo {

struct ComputeTypes {
    bool f32 = false, f64 = false;
};

// The factor of decoupled weight decay: the learning rate, that rate over its largest value, or the product of both.
enum class DecaySchedule : std::uint8_t { kLr, kIndependent, kCorrected };

struct UpdateConfig {
    int rule;
    std::vector<double> values;  // in the rule's order; constants_for_step fills in those that change with the step
    int lr_at;                   // the learning rate's place in `values`, or -1
    std::vector<int> host_constants_at;
    bool maximize, skip_nonfinite;
    double clip_value, clip_norm, clip_global_norm, clip_eps;
    NormType norm_type;
    double l1, weight_decay;
    bool decoupled;
    int weight_decay_at;  // the weight decay's place in `values` where the rule itself decays the parameter, or -1
    DecaySchedule decay_schedule;
    double lr_max;  // the largest learning rate so far, 0 if unknown
    bool cautious, cautious_decay;
    double low, high;  // of the parameter
    std::optional<double> ema;
    std::int64_t ema_start;
    bool ema_debias;
    std::optional<std::int64_t> swa_start;
    std::int64_t swa_every;
    std::optional<std::uint64_t> rounding_seed;  // of stochastic rounding

    // Throws std::invalid_argument where the values do not fit the rule.
    void check() const;

    // Compute the constants of step t, for the compute types that are present: a rule's powers cost more than the step
    // of a small array.
    StepConstants constants_for_step(double lr, std::int64_t t, double grad_scale,
                                     const std::vector<double>& host_constants,
                                     ComputeTypes types = {true, true}) const;

  private:
    double scheduled(double weight_decay, double lr) const;
    double average_weight(std::int64_t t) const;
};

// Return the schedule of that name; throws std::invalid_argument for another name.
DecaySchedule decay_schedule_of(const std::string& name);

// Return the type of the norm for 1, 2 or infinity; throws std::invalid_argument for another number.
NormType norm_type_of(double number);

// Return constants that prepare nothing and leave the rule's own bytes zero.
StepConstants constants_without_options(int rule);

}  // namespace fo

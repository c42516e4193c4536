#include "update_config.h"

#include "expect.h"
#include "float_environment.h"
#include "rule.h"
#include "rule_info.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace fo {

void UpdateConfig::check() const {
    expect(rule >= 0 && static_cast<std::size_t>(rule) < rules().size(), "a rule");
    const std::size_t count = rule_info(rule).hyper.size();
    const auto is_one = [count](int at) { return at >= 0 && static_cast<std::size_t>(at) < count; };
    expect(swa_every >= 1, "swa_every of at least 1");
    expect(values.size() == count && (lr_at == -1 || is_one(lr_at)) &&
               (weight_decay_at == -1 || is_one(weight_decay_at)) &&
               std::all_of(host_constants_at.begin(), host_constants_at.end(), is_one),
           "the rule's hyper-parameters");
}

StepConstants UpdateConfig::constants_for_step(double lr, std::int64_t t, double grad_scale,
                                               const std::vector<double>& host_constants, ComputeTypes types) const {
    const DefaultFloatEnvironment environment;
    expect(host_constants.size() == host_constants_at.size(), "the rule's host constants");
    std::array<double, kMaxHyper> all;
    std::copy(values.begin(), values.end(), all.begin());
    if (lr_at >= 0) all[static_cast<std::size_t>(lr_at)] = lr;
    for (std::size_t k = 0; k < host_constants.size(); ++k)
        all[static_cast<std::size_t>(host_constants_at[k])] = host_constants[k];

    if (weight_decay_at >= 0) {
        double& weight_decay_of_rule = all[static_cast<std::size_t>(weight_decay_at)];
        weight_decay_of_rule = scheduled(weight_decay_of_rule, lr);
    }

    StepConstants constants{};
    constants.rule = rule;
    constants.skip_nonfinite = skip_nonfinite;
    constants.grad_multiplier = (maximize ? -1.0 : 1.0) / grad_scale;
    constants.clip_value = clip_value;
    constants.clip_norm = clip_norm;
    constants.clip_global_norm = clip_global_norm;
    constants.clip_eps = clip_eps;
    constants.norm_type = norm_type;
    constants.l1 = l1;
    constants.weight_decay = decoupled ? 0 : weight_decay;
    (cautious_decay ? constants.cautious_decay : constants.decay) = decoupled ? lr * scheduled(weight_decay, lr) : 0;
    constants.cautious = cautious;
    constants.low = low;
    constants.high = high;
    constants.average_weight = average_weight(t);
    constants.flushes = t % kFlushInterval == 0;
    constants.rounds_randomly = rounding_seed.has_value();
    constants.seed = rounding_seed.value_or(0);
    constants.t = static_cast<std::uint64_t>(t);
    const RuleInfo& info = rule_info(rule);
    if (types.f32) info.construct_f32(t, all.data(), constants);
    if (types.f64) info.construct_f64(t, all.data(), constants);
    return constants;
}

// Return the weight decay that, multiplied by the learning rate, follows the schedule.
double UpdateConfig::scheduled(double weight_decay, double lr) const {
    const double largest = std::max(lr, lr_max);
    if (decay_schedule == DecaySchedule::kLr || largest == 0) return weight_decay;
    return (decay_schedule == DecaySchedule::kCorrected ? lr * weight_decay : weight_decay) / largest;
}

// In the plain mean of n values the last has the weight 1/n, and in the exponential mean with debiased weights
// (1 - ema)/(1 - ema^n).  Before the mean starts it is the last value.
double UpdateConfig::average_weight(std::int64_t t) const {
    if (ema) {
        const std::int64_t before = t - std::max<std::int64_t>(ema_start, ema_debias);
        if (before <= 0) return 1;
        return (1 - *ema) / (ema_debias ? FO_TARGET::Clock{before + 1}.bias_correction(*ema) : 1);
    }
    if (!swa_start) return 0;
    if (t < *swa_start) return 1;
    const std::int64_t before = (t - *swa_start) / swa_every;
    return (t - *swa_start) % swa_every ? 0 : 1 / double(before + 1);
}

DecaySchedule decay_schedule_of(const std::string& name) {
    constexpr std::array names{"lr", "independent", "corrected"};
    const auto* const found = std::find(names.begin(), names.end(), name);
    expect(found != names.end(), "a decay schedule");
    return static_cast<DecaySchedule>(found - names.begin());
}

NormType norm_type_of(double number) {
    expect(number == 1 || number == 2 || number == INFINITY, "a norm of type 1, 2 or infinity");
    return number == 2 ? NormType::kTwo : number == 1 ? NormType::kOne : NormType::kInfinity;
}

StepConstants constants_without_options(int rule) {
    StepConstants constants{};
    constants.rule = rule;
    constants.grad_multiplier = 1;
    constants.clip_value = constants.clip_norm = constants.clip_global_norm = constants.high = INFINITY;
    constants.low = -INFINITY;
    return constants;
}

}  // namespace fo

// Schedule-Free SGD and AdamW: gradients at y, between the steps' own iterate z and the average x, which needs no array
// as it follows from the two.
// Defazio et al., 2024, arXiv:2405.15682
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

// How far y goes in a step: towards z, as x does by the weight of the newest z in the average; and along the gradient.
template <class T>
struct ScheduleFree {
    static constexpr std::array scalar_state{"weight_sum", "lr_max"};

    double lr, between, power_of_t, lr_power;
    T rate, mix, push;

    FO_HD ScheduleFree(const Clock& clock, double lr, double between, double warmup_steps, double r,
                       double weight_lr_power)
        : lr(double(clock.t) < warmup_steps ? lr * (double(clock.t) / warmup_steps) : lr),
          between(between),
          power_of_t(Clock{std::int64_t(r)}.power(double(clock.t))),
          lr_power(weight_lr_power) {}

    FO_HD void finalize(const double*, double* const* own) {
        double &weight_sum = *own[0], &lr_max = *own[1];
        lr_max = lr_max >= lr ? lr_max : lr;
        const double weight = power_of_t * Clock{std::int64_t(lr_power)}.power(lr_max);
        weight_sum += weight;
        const double newest = weight_sum != 0 ? weight / weight_sum : 0;
        rate = T(lr);
        mix = T(newest);
        push = T(lr * (between * (1 - newest) - 1));
    }

    FO_HD void step(T& y, T along, T& z) const {
        y = y + mix * (z - y) + push * along;
        z -= rate * along;
    }
};

template <class T>
struct ScheduleFreeSgd : ScheduleFree<T> {
    static constexpr const char* name = "schedule_free_sgd";
    static constexpr std::array hyper{"lr", "momentum", "warmup_steps", "r", "weight_lr_power"};
    static constexpr std::array state{"z"};

    using ScheduleFree<T>::ScheduleFree;

    FO_HD void operator()(T& p, T g, T& z) const { this->step(p, g, z); }
};

template <class T>
struct ScheduleFreeAdamw : ScheduleFree<T> {
    static constexpr const char* name = "schedule_free_adamw";
    static constexpr std::array hyper{"lr", "beta1",           "beta2",        "eps",          "warmup_steps",
                                      "r",  "weight_lr_power", "correct_rate", "weight_decay", "decoupled"};
    static constexpr std::array state{"z", "v"};

    T keep, fresh, grad_multiplier, eps, coupled, decoupled;

    // The correction of v's bias is either part of the learning rate, or of v as in Adam; that is sqrt(v/bias) + eps
    // with both halves times sqrt(bias).
    FO_HD ScheduleFreeAdamw(const Clock& clock, double lr, double beta1, double beta2, double eps, double warmup_steps,
                            double r, double weight_lr_power, double correct_rate, double weight_decay,
                            double decoupled)
        : ScheduleFree<T>(clock, lr, beta1, warmup_steps, r, weight_lr_power),
          keep(decay<T>(beta2)),
          fresh(rise(keep)),
          coupled(T(decoupled != 0 ? 0 : weight_decay)),
          decoupled(T(decoupled != 0 ? weight_decay : 0)) {
        const double root = sqrt(clock.bias(double(keep)));
        this->lr *= correct_rate != 0 ? root : 1;
        grad_multiplier = T(correct_rate != 0 ? 1 : root);
        this->eps = T(correct_rate != 0 ? eps : eps * root);
    }

    FO_HD void operator()(T& p, T g, T& z, T& v) const {
        const T whole = g + coupled * p;
        v = keep * v + fresh * whole * whole;
        this->step(p, grad_multiplier * whole / (sqrt(v) + eps) + decoupled * p, z);
    }
};

FO_RULE(ScheduleFreeSgd)
FO_RULE(ScheduleFreeAdamw)

}  // namespace fo::FO_TARGET

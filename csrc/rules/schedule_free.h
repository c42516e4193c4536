// Schedule-Free SGD and AdamW: the parameter is y, an interpolation between the iterate z and the average x of the
// iterates.  x needs no array, as it follows from y and z.
// Defazio et al., 2024, arXiv:2405.15682
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

// y moves towards z by average_weight, the weight of the newest z in x, and along the gradient by y_step_size.
template <class T>
struct ScheduleFree {
    static constexpr std::array scalar_state{"weight_sum", "lr_max"};

    double lr, beta, power_of_t, lr_power;
    T z_step_size, y_step_size, average_weight;

    FO_HD ScheduleFree(const Clock& clock, double lr, double beta, double warmup_steps, double r,
                       double weight_lr_power)
        : lr(double(clock.t) < warmup_steps ? lr * (double(clock.t) / warmup_steps) : lr),
          beta(beta),
          power_of_t(power(double(clock.t), std::int64_t(r))),
          lr_power(weight_lr_power) {}

    FO_HD void finalize(const double*, double* const* scalar_state) {
        double &weight_sum = *scalar_state[0], &lr_max = *scalar_state[1];
        lr_max = lr_max >= lr ? lr_max : lr;
        const double weight = power_of_t * power(lr_max, std::int64_t(lr_power));
        weight_sum += weight;
        const double relative_weight = weight_sum != 0 ? weight / weight_sum : 0;
        z_step_size = T(lr);
        average_weight = T(relative_weight);
        y_step_size = T(-lr * ((1 - beta) + beta * relative_weight));
    }

    FO_HD void update(T& y, T direction, T& z) const {
        y = y + average_weight * (z - y) + y_step_size * direction;
        z -= z_step_size * direction;
    }
};

template <class T>
struct ScheduleFreeSGD : ScheduleFree<T> {
    static constexpr const char* name = "schedule_free_sgd";
    static constexpr std::array hyper{"lr", "momentum", "warmup_steps", "r", "weight_lr_power"};
    static constexpr std::array state{"z"};

    using ScheduleFree<T>::ScheduleFree;

    FO_HD void operator()(T& p, T g, T& z) const { this->update(p, g, z); }
};

template <class T>
struct ScheduleFreeAdamW : ScheduleFree<T> {
    static constexpr const char* name = "schedule_free_adamw";
    static constexpr std::array hyper{"lr", "beta1",           "beta2",        "eps",          "warmup_steps",
                                      "r",  "weight_lr_power", "correct_rate", "weight_decay", "decoupled"};
    static constexpr std::array state{"z", "v"};

    Ema<T> mean2;
    T g_scale, eps, coupled_decay, decoupled_decay;

    // The bias correction of v is applied either to the learning rate, or to v as in adam.h: g / (sqrt(v_hat) + eps),
    // with numerator and denominator multiplied by sqrt(1 - beta2^t).
    FO_HD ScheduleFreeAdamW(const Clock& clock, double lr, double beta1, double beta2, double eps, double warmup_steps,
                            double r, double weight_lr_power, double correct_rate, double weight_decay,
                            double decoupled)
        : ScheduleFree<T>(clock, lr, beta1, warmup_steps, r, weight_lr_power),
          mean2(beta2),
          coupled_decay(T(decoupled != 0 ? 0 : weight_decay)),
          decoupled_decay(T(decoupled != 0 ? weight_decay : 0)) {
        const double root = sqrt(mean2.bias_correction(clock));
        this->lr *= correct_rate != 0 ? root : 1;
        g_scale = T(correct_rate != 0 ? 1 : root);
        this->eps = T(correct_rate != 0 ? eps : eps * root);
    }

    FO_HD void operator()(T& p, T g, T& z, T& v) const {
        const T penalized = g + coupled_decay * p;
        v = mean2.of_square(v, penalized);
        this->update(p, g_scale * penalized / (sqrt(v) + eps) + decoupled_decay * p, z);
    }
};

FO_RULE(ScheduleFreeSGD)
FO_RULE(ScheduleFreeAdamW)

}  // namespace fo::FO_TARGET

// AdaBelief: Adam with the mean squared deviation of the gradient from its moving average in the denominator.
// Zhuang et al., 2020, arXiv:2010.07468
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AdaBelief {
    static constexpr const char* name = "adabelief";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "eps_root", "previous_mean"};
    static constexpr std::array state{"m", "s"};

    Ema<T> mean1, mean2;
    T step_size, eps, eps_root, deviation_scale;

    // g - m_t = beta1*(g - m_{t-1}), so that one kernel covers both definitions of the deviation.  The bias corrections
    // are folded into step_size and eps, as in adam.h; eps_root is added to s and corrected with it.
    FO_HD AdaBelief(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root,
                    double previous_mean)
        : mean1(beta1), mean2(beta2), eps_root(T(eps_root)), deviation_scale(previous_mean != 0 ? T(1) : mean1.beta) {
        const double bias_correction1 = mean1.bias_correction(clock), bias_correction2 = mean2.bias_correction(clock);
        step_size = T(lr * sqrt(bias_correction2) / bias_correction1);
        this->eps = T(eps * sqrt(bias_correction2));
    }

    FO_HD void update_means(T g, T& m, T& s) const {
        const T deviation = deviation_scale * (g - m);
        m = mean1(m, g);
        s = mean2.of_square(s, deviation) + eps_root;
    }

    FO_HD T step(Unread, T g, T& m, T& s) const {
        update_means(g, m, s);
        return step_size * m / (sqrt(s) + eps);
    }
};

// With the maximum of s, as AMSGrad.
template <class T>
struct AdaBeliefAMSGrad : AdaBelief<T> {
    static constexpr const char* name = "adabelief_amsgrad";
    static constexpr std::array state{"m", "s", "s_max"};

    using AdaBelief<T>::AdaBelief;

    FO_HD T step(Unread, T g, T& m, T& s, T& s_max) const {
        this->update_means(g, m, s);
        s_max = max(s_max, s);
        return this->step_size * m / (sqrt(s_max) + this->eps);
    }
};

FO_RULE(AdaBelief)
FO_RULE(AdaBeliefAMSGrad)

}  // namespace fo::FO_TARGET

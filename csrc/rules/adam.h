// Adam: bias-corrected moving averages of the gradient and of its square.  AMSGrad: with the maximum of the latter.
// Kingma & Ba, 2015, arXiv:1412.6980; Reddi, Kale & Kumar, 2018, arXiv:1904.09237
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adam {
    static constexpr const char* name = "adam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "eps_root", "eps_hat", "bias_correction"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T step_size, eps, eps_root, v_correction;

    // lr*m_hat / (sqrt(v_hat + eps_root) + eps), with numerator and denominator multiplied by sqrt(1 - beta2^t): the
    // bias corrections become constants, and an element costs one division and one square root.
    // With `corrects_v` (the maximum of v_hat) the state already holds v_hat, so that only the numerator is rescaled.
    // With `eps_hat` the epsilons belong to the square root before its correction.
    FO_HD Adam(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root, double eps_hat,
               double bias_correction, bool corrects_v = false)
        : mean1(beta1), mean2(beta2) {
        const double bias_correction1 = bias_correction != 0 ? mean1.bias_correction(clock) : 1;
        const double bias_correction2 = bias_correction != 0 ? mean2.bias_correction(clock) : 1;
        // The factors that the argument of the square root and the epsilons are to be multiplied by.
        const double root_scale = corrects_v ? 1 : bias_correction2;
        const double eps_scale = eps_hat != 0 ? (corrects_v ? 1 / bias_correction2 : 1) : root_scale;
        step_size = T(lr * sqrt(root_scale) / bias_correction1);
        this->eps = T(eps * sqrt(eps_scale));
        this->eps_root = T(eps_root * eps_scale);
        v_correction = T(corrects_v ? 1 / bias_correction2 : 1);
    }

    FO_HD void update_means(T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
    }

    FO_HD T adam_step(T m, T v) const { return step_size * m / (sqrt(v + eps_root) + eps); }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        update_means(g, m, v);
        return adam_step(m, v);
    }
};

template <class T>
struct AMSGrad : Adam<T> {
    static constexpr const char* name = "adam_amsgrad";
    static constexpr std::array hyper{"lr",       "beta1",   "beta2",           "eps",
                                      "eps_root", "eps_hat", "bias_correction", "amsgrad_corrected"};
    static constexpr std::array state{"m", "v", "v_max"};

    FO_HD AMSGrad(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root,
                  double eps_hat, double bias_correction, double amsgrad_corrected)
        : Adam<T>(clock, lr, beta1, beta2, eps, eps_root, eps_hat, bias_correction, amsgrad_corrected != 0) {}

    FO_HD T step(Unread, T g, T& m, T& v, T& v_max) const {
        this->update_means(g, m, v);
        v_max = max(v_max, this->v_correction * v);
        return this->adam_step(m, v_max);
    }
};

FO_RULE(Adam)
FO_RULE(AMSGrad)

}  // namespace fo::FO_TARGET
